"""The sizes of the encoders, as settings. Imports nothing heavy: reading a recipe costs no torch."""

from dataclasses import dataclass

from rectiflow.config import STRICT

AUTOENCODER_FACTOR = 8
"""Pixels per latent position along a side; fixed by the method (arXiv 2403.03206, 5.2.1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderModel:
    """The size of an autoencoder: diffusers' `AutoencoderKL` with three halvings.

    Args:
        latent_channels: Channels of the latent; the paper compares 4, 8 and 16 and takes 16.
        widths: Channels at 1/1, 1/2, 1/4 and 1/8 of the side. The first dominates the cost.
        layers_per_block: Residual blocks per width in the encoder; the decoder has one more.
        norm_groups: Groups of every group norm; must divide all widths.
        has_mid_attention: Whether the 1/8 level attends over all its positions.
    """

    __pydantic_config__ = STRICT

    latent_channels: int = 16
    widths: tuple[int, ...] = (16, 32, 64, 64)
    layers_per_block: int = 1
    norm_groups: int = 8
    has_mid_attention: bool = True

    def __post_init__(self) -> None:
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels must be >= 1, got {self.latent_channels}")
        if 2 ** (len(self.widths) - 1) != AUTOENCODER_FACTOR:
            raise ValueError(
                f"widths must name 4 levels (f{AUTOENCODER_FACTOR}), got {self.widths}"
            )
        if self.layers_per_block < 1:
            raise ValueError(f"layers_per_block must be >= 1, got {self.layers_per_block}")
        if self.norm_groups < 1 or any(width % self.norm_groups for width in self.widths):
            raise ValueError(
                f"norm_groups must divide widths {self.widths}, got {self.norm_groups}"
            )
