"""One training step played through: computing, collectives, and what of these is hidden.

Computing takes the time of the products, at the rate that large products reach, plus that of the
operations between them, at the memory's. Blocks are taken as equal. One stream computes, another
communicates; a block waits for its weights, a collective for its block. Left out: launches of
kernels (a step of a few milliseconds takes longer), stragglers, input. Loads no torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rectiflow.planning.collectives import (
    across_seconds,
    all_reduce_seconds,
    exchange_seconds,
    gather_seconds,
)
from rectiflow.planning.gpus import Gpu
from rectiflow.planning.memory import FLOAT32_BYTES, NUM_GATHERED, Strategy, num_shards

if TYPE_CHECKING:
    from rectiflow.planning.workload import Workload

TRAFFIC_PER_KEPT: Final = 2.25
"""Bytes that fused operations between the products read and write in both passes, in units of those
kept for the backward pass: 22 vectors of bf16 per token and block forward, about 70 in all, against
31 kept. A model, not a measurement."""

EAGER_TRAFFIC: Final = 3.0
"""The same uncompiled, in units of compiled."""

ATTENTION_SHARE: Final = 0.5
"""Rate of attention in units of that of large products, heads of 64 channels. An assumption: a
fused kernel computes its logits twice, and the exponentials between its products take time."""

OPTIMIZER_BYTES: Final = 42
"""Per weight and step: AdamW in float32 reads and writes 28, the average 12, a bf16 copy 2."""

STREAMING_SHARE: Final = 0.9
"""Of a memory's rate, what an update of all weights reaches. An assumption."""

BF16_BYTES: Final = 2

MUON_FLOPS: Final = 25
"""Per weight and channel of the width, for five Newton-Schulz iterations on matrices of h x h and
h x 4 h (4 m^2 n + 2 m^3 each)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Seconds of one optimizer step.

    Args:
        computing: Forward and backward, recomputation included.
        communicating: All collectives, hidden or not.
        exposed: What of them, or of waiting for them, the computing does not hide.
        optimizer: Weights and their average updated.
    """

    computing: float
    communicating: float
    exposed: float
    optimizer: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.computing + self.exposed + self.optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Seconds of the two passes of one microbatch."""

    forward: float
    backward: float


def passes(
    workload: "Workload",
    gpu: Gpu,
    microbatch: int,
    *,
    is_checkpointed: bool = False,
    is_compiled: bool = True,
    efficiency: float | None = None,
) -> Passes:
    """Computing of one microbatch.

    Args:
        workload: The network on one sample.
        gpu: What computes.
        microbatch: Samples in one forward pass.
        is_checkpointed: Whether blocks are computed anew in the backward pass.
        is_compiled: Whether the operations between the products are fused.
        efficiency: Share of the peak at which FLOPs are done, in place of the model's; of the
            FLOPs that are counted, which recomputation is not.
    """
    products = workload.products
    whole, first = products.training_flops, products.forward_flops
    if efficiency is not None:
        rate = gpu.peak_flops * efficiency
        forward, backward = first / rate, (whole - first) / rate
    else:
        rate = gpu.peak_flops * gpu.matmul_share
        attention = 2 * products.attention / rate * (1 / ATTENTION_SHARE - 1)  # on top, forward
        traffic = TRAFFIC_PER_KEPT * workload.kept_bytes / (gpu.bandwidth * gpu.bandwidth_share)
        between = traffic * (1.0 if is_compiled else EAGER_TRAFFIC)
        forward = first / rate + attention + between / 3
        backward = (whole - first) / rate + 2 * attention + 2 * between / 3
    if is_checkpointed:
        backward += forward
    return Passes(forward=microbatch * forward, backward=microbatch * backward)


def optimizer_seconds(workload: "Workload", gpu: Gpu, shards: int, num: int, kind: str) -> float:
    """Updating this GPU's share of the weights; Muon's matrices are dealt out to all GPUs."""
    nbytes = OPTIMIZER_BYTES * workload.parameters / shards
    seconds = nbytes / (STREAMING_SHARE * gpu.bandwidth)
    if kind == "muon":
        flops = MUON_FLOPS * workload.width * workload.muon_weights
        seconds += flops / num / (gpu.peak_flops * gpu.matmul_share)
    return seconds


def muon_exchange_seconds(
    workload: "Workload", gpu: Gpu, strategy: Strategy, num_gpus: int
) -> float:
    """Muon's matrices to their owners and their updates back, in bf16; computing waits for it."""
    if strategy == "single":
        return 0.0
    nbytes = BF16_BYTES * workload.muon_weights
    if strategy == "ddp":
        return gather_seconds(nbytes, num_gpus, gpu)
    shards = num_shards(strategy, num_gpus, gpu.node_size)
    copies = num_gpus // shards
    inside = 2 * exchange_seconds(nbytes / copies, shards, gpu)
    # A gather sends half of what an all-reduce does.
    return inside + across_seconds(nbytes / shards / 2, copies, gpu)


def simulate(
    workload: "Workload",
    gpu: Gpu,
    strategy: Strategy,
    num_gpus: int,
    microbatch: int,
    num_microbatches: int,
    *,
    optimizer: str = "adamw",
    is_checkpointed: bool = False,
    is_compiled: bool = True,
    efficiency: float | None = None,
) -> Step:
    """One optimizer step of `num_microbatches` passes; gradients are exchanged in the last."""
    each = passes(
        workload,
        gpu,
        microbatch,
        is_checkpointed=is_checkpointed,
        is_compiled=is_compiled,
        efficiency=efficiency,
    )
    gather, reduce = _block_collectives(workload, gpu, strategy, num_gpus)
    accumulating = _play(workload.num_blocks, each, gather, 0.0)
    last = _play(workload.num_blocks, each, gather, reduce)
    computing = num_microbatches * (each.forward + each.backward)
    spent = (num_microbatches - 1) * accumulating + last
    shards = num_shards(strategy, num_gpus, gpu.node_size)
    gathers = 2 * gather * num_microbatches
    dealt = muon_exchange_seconds(workload, gpu, strategy, num_gpus) if optimizer == "muon" else 0.0
    return Step(
        computing=computing,
        communicating=workload.num_blocks * (gathers + reduce) + dealt,
        exposed=spent - computing + dealt if strategy != "single" else 0.0,
        optimizer=optimizer_seconds(workload, gpu, shards, num_gpus, optimizer),
    )


def _block_collectives(
    workload: "Workload", gpu: Gpu, strategy: Strategy, num_gpus: int
) -> tuple[float, float]:
    """Seconds to gather one block's weights, and to sum its gradients, both in float32."""
    block = FLOAT32_BYTES * workload.parameters / workload.num_blocks
    if strategy == "single":
        return 0.0, 0.0
    if strategy == "ddp":
        return 0.0, all_reduce_seconds(block, num_gpus, gpu)
    shards = num_shards(strategy, num_gpus, gpu.node_size)
    gather = reduce = gather_seconds(block, shards, gpu)
    if strategy == "hsdp":
        reduce += across_seconds(block / shards, num_gpus // shards, gpu)
    return gather, reduce


def _play(num_blocks: int, each: Passes, gather: float, reduce: float) -> float:
    """Seconds from the first block forward to the last gradient summed."""
    forward, backward = each.forward / num_blocks, each.backward / num_blocks
    done = [0.0] * NUM_GATHERED  # when each block was computed
    network, unsent = 0.0, None  # when the network is free; when gradients not sent yet were there
    for place in range(2 * num_blocks):
        is_backward = place >= num_blocks
        network = max(network, done[-NUM_GATHERED]) + gather  # memory for it is free from then on
        begin = max(done[-1], network) if gather else done[-1]
        done.append(begin + (backward if is_backward else forward))
        # The gather of the next weights goes out before gradients, which wait for their block.
        if reduce and unsent is not None:
            network = max(network, unsent) + reduce
        unsent = done[-1] if is_backward else None
    return max(done[-1], network) + reduce if reduce else done[-1]
