"""How long GPUs take to exchange tensors, by the shape of NCCL's own model. Loads no torch.

Time is latency plus bytes over bandwidth. Latencies are those of NCCL's tuning table for Hopper
(protocol Simple; github.com/NVIDIA/nccl, src/graph/tuning.cc): a start, then one per hop. Across
nodes every GPU has its own adapter, and the adapters of a node carry a message together.
"""

import math
from typing import Final

from rectiflow.planning.gpus import Gpu

LINK_SHARE: Final = 0.8
"""Of a link's printed rate, what collectives reach. An assumption, usual for nccl-tests."""

START_SECONDS: Final = 8.4e-6
NVLINK_HOP_SECONDS: Final = 3.4e-6
NETWORK_HOP_SECONDS: Final = 14e-6


def gather_seconds(nbytes: float, num: int, gpu: Gpu) -> float:
    """Every one of `num` GPUs gets all parts of a tensor; a reduce-scatter takes the same.

    In a ring: num - 1 hops, between nodes but for those within them.

    Args:
        nbytes: Of the whole tensor.
        num: GPUs, whole nodes of them or a part of one.
        gpu: Their kind.
    """
    if num == 1:
        return 0.0
    nodes = math.ceil(num / gpu.node_size)
    between = nodes - 1
    latency = between * NETWORK_HOP_SECONDS + (num - 1 - between) * NVLINK_HOP_SECONDS
    return START_SECONDS + latency + (num - 1) / num * nbytes / _rate(nodes, gpu)


def all_reduce_seconds(nbytes: float, num: int, gpu: Gpu) -> float:
    """Every one of `num` GPUs gets the sum of all tensors of `nbytes`.

    Bytes as in a ring, twice those of a gather; hops as in a tree, twice through a node and twice
    the logarithm of the nodes.
    """
    if num == 1:
        return 0.0
    nodes = math.ceil(num / gpu.node_size)
    inside = min(num, gpu.node_size) - 1
    hops = inside * NVLINK_HOP_SECONDS + math.ceil(math.log2(nodes)) * NETWORK_HOP_SECONDS
    return START_SECONDS + 2 * hops + 2 * (num - 1) / num * nbytes / _rate(nodes, gpu)


def across_seconds(nbytes: float, nodes: int, gpu: Gpu) -> float:
    """An all-reduce between GPUs of equal rank in their nodes, each over its own adapter."""
    if nodes == 1:
        return 0.0
    hops = 2 * math.ceil(math.log2(nodes)) * NETWORK_HOP_SECONDS
    rate = LINK_SHARE * gpu.nic
    return START_SECONDS + hops + 2 * (nodes - 1) / nodes * nbytes / rate


def exchange_seconds(nbytes: float, num: int, gpu: Gpu) -> float:
    """Every one of `num` GPUs, which hold `nbytes` between them, sends each other its part.

    An all-to-all; beyond a node all of it is taken to go through each GPU's own adapter.
    """
    if num == 1:
        return 0.0
    is_inside = num <= gpu.node_size
    hop = NVLINK_HOP_SECONDS if is_inside else NETWORK_HOP_SECONDS
    rate = LINK_SHARE * (gpu.link if is_inside else gpu.nic)
    return START_SECONDS + hop + (num - 1) / num * nbytes / num / rate


def _rate(nodes: int, gpu: Gpu) -> float:
    """Bytes per second through the narrowest place of a ring over whole nodes."""
    if nodes == 1:
        return LINK_SHARE * gpu.link
    return LINK_SHARE * min(gpu.link, gpu.node_size * gpu.nic)
