"""What a plan is made for: a network on pictures of one size, with what its run would see."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rectiflow.data.manifest import LATENT_DTYPES, ArraySpec
from rectiflow.nn.named import AUTOENCODER_FACTOR, config_of
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.tables import Row
from rectiflow.planning.workload import Workload, workload_of

PAPER_STEPS: Final = 500_000
PAPER_BATCH: Final = 4096
"""The SD3 paper's scaling runs at 256 px (arXiv:2403.03206, Sec. 5.3)."""

CLIP_WIDTHS: Final = {"clip_l": 768, "clip_g": 1280}  # of the encoders of SD3 and SD3.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A network and its data.

    Args:
        name: As it was asked for.
        config: Configuration of the network.
        size_px: Side of the pictures.
        latent_side: Side of the latents.
        segments: Text tokens, by group of encoders.
        workload: What one sample costs.
        arrays: What the store keeps of a sample.
        num_captions: Captions of a sample.
        batch: Samples of one step, where nothing else is said.
        images: Samples of the run; None where the run is so many minutes.
        minutes: Of the run, where images are None.
        optimizer: `adamw` or `muon`.
        num_averages: Averages of the weights that are kept beside them.
        is_bf16: Whether its products are in bf16, as plans take them.
    """

    name: str
    config: Any
    size_px: int
    latent_side: int
    segments: tuple[int, ...]
    workload: Workload
    arrays: Mapping[str, ArraySpec]
    num_captions: int
    batch: int
    images: int | None
    minutes: float | None = None
    optimizer: str = "adamw"
    num_averages: int = 1
    is_bf16: bool = True


def named_subject(row: Row, size_px: int | None = None) -> Subject:
    """A network with a name, as the SD3 paper would pretrain it: 500,000 steps of 4096, AdamW.

    Args:
        row: The network.
        size_px: Side of the pictures; None for that of the row's table.

    Raises:
        ValueError: If the network does not take pictures of this size.
    """
    config, side_px = config_of(row), row.side_px if size_px is None else size_px
    if side_px < AUTOENCODER_FACTOR or side_px % AUTOENCODER_FACTOR:
        raise ValueError(f"the size must be a multiple of {AUTOENCODER_FACTOR}, got {side_px}")
    side = side_px // AUTOENCODER_FACTOR
    return Subject(
        name=row.name,
        config=config,
        size_px=side_px,
        latent_side=side,
        segments=row.segments,
        workload=workload_of(config, side, row.segments),
        arrays=_arrays(row, config, side),
        num_captions=1,
        batch=PAPER_BATCH,
        images=PAPER_STEPS * PAPER_BATCH,
    )


def _arrays(row: Row, config: Any, side: int) -> dict[str, ArraySpec]:
    """What our store keeps: a latent in float32, its log variance and text in float16."""
    shape = (config.latent_channels, side, side)
    latents = {name: ArraySpec(shape=shape, dtype=d) for name, d in LATENT_DTYPES.items()}
    if row.name not in RELEASES:  # one text encoder, or small ones side by side
        states = ArraySpec(shape=(sum(row.segments), config.context_width), dtype="float16")
        pooled = ArraySpec(shape=(config.pooled_width,), dtype="float16")
        return {**latents, "states": states, "pooled": pooled}
    clip, t5 = row.segments
    texts = {
        name: ArraySpec(shape=(clip, width), dtype="float16") for name, width in CLIP_WIDTHS.items()
    }
    pooled = {
        name.replace("clip", "pooled"): ArraySpec(shape=(width,), dtype="float16")
        for name, width in CLIP_WIDTHS.items()
    }
    texts["t5"] = ArraySpec(shape=(t5, config.context_width), dtype="float16")
    return {**latents, **texts, **pooled}
