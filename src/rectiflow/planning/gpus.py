"""The devices that a plan can be made for: what they compute, hold and send, with sources.

Dense bf16 rates; bytes are decimal; links one way. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from rectiflow.config import nearest

H200_MATMUL_SHARE: Final = 790e12 / 989.4e12
"""Measured once on an H200: bf16 products of 8192^3, random data, 790 TFLOP/s. Assumed of the other
GPUs, for which no measurement is at hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One kind of device, in nodes of equal ones.

    Args:
        name: As the command line takes it.
        peak_flops: Floating-point operations per second of dense bf16 products, as printed.
        matmul_share: Of the peak, what large products reach.
        memory_bytes: Of one device.
        bandwidth: Bytes per second to and from its memory.
        bandwidth_share: Of it, what operations between the products reach.
        link: Bytes per second one way from a device to those of its node.
        nic: Bytes per second one way out of the node, per device.
        node_size: Devices in a node.
        watts: Of one device with its share of the node, at full load.
        is_compiled: Whether training there fuses the operations between the products.
        source: Where the numbers come from.
    """

    name: str
    peak_flops: float
    matmul_share: float = H200_MATMUL_SHARE
    memory_bytes: float
    bandwidth: float
    bandwidth_share: float = 0.9
    link: float
    nic: float
    node_size: int
    watts: float
    is_compiled: bool = True
    source: str


def gpu_named(name: str) -> Gpu:
    """The device of that name.

    Raises:
        ValueError: If there is none; the nearest is suggested.
    """
    if name not in GPUS:
        raise ValueError(f"unknown gpu {name!r}; {nearest(name, list(GPUS))}")
    return GPUS[name]


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            Gpu(
                name="b200",
                peak_flops=2.25e15,
                memory_bytes=180e9,
                bandwidth=8e12,
                link=900e9,
                nic=50e9,
                node_size=8,
                watts=14_300 / 8,
                source="NVIDIA DGX B200 datasheet (8 GPUs, 14.3 kW, NVLink 1.8 TB/s both ways, "
                "8 x 400 Gb/s); bf16 half of its dense FP8",
            ),
            Gpu(
                name="h200",
                peak_flops=989.4e12,
                memory_bytes=141e9,
                bandwidth=4.8e12,
                link=450e9,
                nic=50e9,
                node_size=8,
                watts=10_200 / 8,
                source="NVIDIA H200 SXM and DGX H200 datasheets (10.2 kW, 8 x 400 Gb/s); "
                "share of products measured",
            ),
            Gpu(
                name="h100",
                peak_flops=989.4e12,
                memory_bytes=80e9,
                bandwidth=3.35e12,
                link=450e9,
                nic=50e9,
                node_size=8,
                watts=10_200 / 8,
                source="NVIDIA H100 SXM and DGX H100 datasheets (10.2 kW, 8 x 400 Gb/s)",
            ),
            Gpu(
                name="a100",
                peak_flops=312e12,
                memory_bytes=80e9,
                bandwidth=2.039e12,
                link=300e9,
                nic=25e9,
                node_size=8,
                watts=6_500 / 8,
                source="NVIDIA A100 80GB SXM and DGX A100 datasheets (6.5 kW, 8 x 200 Gb/s)",
            ),
            Gpu(
                name="l40s",
                peak_flops=362e12,
                memory_bytes=48e9,
                bandwidth=864e9,
                link=32e9,
                nic=12.5e9,
                node_size=8,
                watts=350 * 1.5,
                source="NVIDIA L40S datasheet (350 W, PCIe 4 x16); 100 Gb/s per GPU and half as "
                "much power again for the host are assumed",
            ),
            Gpu(
                name="rtx4090",
                peak_flops=165.2e12,
                memory_bytes=24e9,
                bandwidth=1.008e12,
                link=32e9,
                nic=1.25e9,
                node_size=4,
                watts=450 * 1.5,
                source="NVIDIA Ada GPU architecture whitepaper (bf16, fp32 sums; 450 W, PCIe 4 "
                "x16); 10 Gb/s per GPU and half as much power again for the host are assumed",
            ),
            Gpu(
                name="cpu",
                peak_flops=933e9,
                matmul_share=1.0,
                memory_bytes=24 * 2**30,
                bandwidth=40e9,
                bandwidth_share=0.33,
                link=1.25e9,
                nic=1.25e9,
                node_size=1,
                watts=20,
                is_compiled=False,
                source="2 cores of an AMD EPYC with AVX-512 BF16 (docs/benchmarks.md): products "
                "measured, the memory's rates fitted to a training step of d12; 10 Gb/s and 20 W "
                "are assumed",
            ),
        )
    }
)
"""All devices by name."""
