"""Published training runs, to hold the cost model against.

The model tells what a run reaches that nothing disturbs. These ran on other programs, with input,
logging and unfused operations that it leaves out.
"""

from dataclasses import dataclass
from typing import Any, Final

from rectiflow.nn.dit import DiTConfig
from rectiflow.nn.named import config_of
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.tables import row_of
from rectiflow.planning.advice import Cluster, advised, ways_of
from rectiflow.planning.gpus import gpu_named
from rectiflow.planning.workload import of_depth, workload_of

REACHED: Final = (0.48, 0.82)
"""Least and most that these runs reached of what the model tells of them; a test counts again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRun:
    """A training run whose rate is in print.

    Args:
        name: What was trained.
        config: The network, as near as ours come.
        latent_side: Side of its latents.
        segments: Text tokens.
        gpu: Kind of device.
        num_gpus: Devices.
        per_gpu: Samples of a step on each.
        is_compiled: Whether operations were fused, so far as is known.
        flops_per_gpu: Printed rate, in FLOPs per second of our counter.
        source: Where it is printed, and what was assumed.
    """

    name: str
    config: Any
    latent_side: int
    segments: tuple[int, ...]
    gpu: str
    num_gpus: int
    per_gpu: int
    is_compiled: bool
    flops_per_gpu: float
    source: str

    @property
    def modelled_flops_per_gpu(self) -> float:
        """What the cost model tells of it, spread in the advised way."""
        workload = workload_of(self.config, self.latent_side, self.segments)
        cluster = Cluster(
            gpu=gpu_named(self.gpu),
            num_gpus=self.num_gpus,
            batch=self.per_gpu * self.num_gpus,
            is_compiled=self.is_compiled,
        )
        best = advised(ways_of(workload, cluster), self.num_gpus)
        rate = best.images_per_second / self.num_gpus
        return rate * workload.products.training_flops

    @property
    def reached(self) -> float:
        """The printed rate in units of the modelled."""
        return self.flops_per_gpu / self.modelled_flops_per_gpu


def published_runs() -> list[PublishedRun]:
    """Runs of networks that ours come near to."""
    return [*_of_sd3(), _of_minrf(), _of_dit(), _of_sd2()]


def _of_sd3() -> list[PublishedRun]:
    config, segments = RELEASES["mmdit-d24"], (77, 77)
    flops = workload_of(config, 64, segments).products.training_flops
    return [
        PublishedRun(
            name=f"SD3 2B, 16 {gpu.upper()}",
            config=config,
            latent_side=64,
            segments=segments,
            gpu=gpu,
            num_gpus=16,
            per_gpu=16,
            is_compiled=False,
            flops_per_gpu=rate * flops,
            source=f"stability.ai/news/putting-the-ai-supercomputer-to-work: {rate} images/s "
            "each; 512 px and eager are assumed",
        )
        for gpu, rate in (("a100", 23.8), ("h100", 37))
    ]


def _of_minrf() -> PublishedRun:
    return PublishedRun(
        name="minRF 5.6B, H100",
        config=of_depth(RELEASES["mmdit-d24"], 34),
        latent_side=32,
        segments=(77, 77),
        gpu="h100",
        num_gpus=64,
        per_gpu=32,
        is_compiled=True,
        flops_per_gpu=0.525 * 989.4e12,
        source="github.com/cloneofsimo/minRF: 45 to 60 % of the peak; shape, GPUs and batch are "
        "assumed",
    )


def _of_dit() -> PublishedRun:
    """Width 1152, 28 blocks, 256 tokens; classes instead of text, which we take as one token."""
    config = DiTConfig(
        depth=28,
        num_heads=16,
        head_width=72,
        patch_size=2,
        latent_channels=4,
        context_width=8,
        pooled_width=8,
        base_side=16,
        table_side=16,
        qk_norm=False,
    )
    return PublishedRun(
        name="DiT-XL/2, A100",
        config=config,
        latent_side=32,
        segments=(1,),
        gpu="a100",
        num_gpus=1,
        per_gpu=128,
        is_compiled=False,
        flops_per_gpu=0.84 * 128 * workload_of(config, 32, (1,)).products.training_flops,
        source="github.com/chuanyangjin/fast-DiT: 0.84 steps/s of 128, pictures encoded before",
    )


def _of_sd2() -> PublishedRun:
    row = row_of("SD2")
    assert row is not None
    config = config_of(row)
    return PublishedRun(
        name="SD2 UNet, 8 A100",
        config=config,
        latent_side=32,
        segments=(77,),
        gpu="a100",
        num_gpus=8,
        per_gpu=256,
        is_compiled=False,
        flops_per_gpu=137 * workload_of(config, 32, (77,)).products.training_flops,
        source="github.com/mosaicml/diffusion: 137 images/s each at 256 px, encoded before; the "
        "batch is assumed",
    )
