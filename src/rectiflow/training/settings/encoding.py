"""Settings of `rectiflow data encode`. Imports nothing heavy."""

from dataclasses import dataclass, field

from rectiflow.config import STRICT
from rectiflow.training.settings.bounds import at_least
from rectiflow.training.settings.data import EncodersSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodingSettings:
    """How records become an encoded store; workers on one store must agree on them.

    Only `num_threads` and `device` may differ between workers.

    Args:
        size_px: Side that pictures are drawn at, or scaled and cropped to.
        seed: Of scenes.
        encoders: What makes latents and text states.
        records_per_shard: Records per pair of files; fewer where they would exceed 256 MiB.
        batch_size: Pictures, and captions, per call of an encoder.
        num_threads: Threads that load pictures.
        device: `auto`, `cpu`, `cuda` or `mps`.
    """

    __pydantic_config__ = STRICT

    size_px: int = 64
    seed: int = 0
    encoders: EncodersSettings = field(default_factory=EncodersSettings)
    records_per_shard: int = 16_384
    batch_size: int = 256
    num_threads: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.size_px < 8 or self.size_px % 8:
            raise ValueError(f"size_px must be a positive multiple of 8, got {self.size_px}")
        for name in ("records_per_shard", "batch_size", "num_threads"):
            at_least(name, getattr(self, name), 1)
