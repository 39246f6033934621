"""Sizes of the encoders, as settings. Imports nothing heavy: reading a recipe costs no torch."""

from dataclasses import dataclass

from rectiflow.config import STRICT

AUTOENCODER_FACTOR = 8
"""Pixels per latent position along a side; fixed by the method (arXiv 2403.03206, 5.2.1)."""

HEAD_WIDTH = 32
"""Width of an attention head in the small text encoders and the vision tower."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersModel:
    """The sizes of the three text encoders and of the vision tower trained with the first two.

    All attention heads are 32 wide. The two CLIP encoders stand for CLIP-L and OpenCLIP bigG, so
    the second is the wider one, and their joint width must fit into T5's.

    Args:
        clip_l_width: Width of the first CLIP text encoder and of its pooled vector.
        clip_g_width: The same for the second; also of the picture embedding.
        t5_width: Width of the T5 encoder and of the context a network sees.
        clip_layers: Layers of each CLIP text encoder; the context is taken before the last.
        t5_layers: Layers of the T5 encoder.
        vision_width: Width of the vision tower.
        vision_layers: Layers of the vision tower.
        vision_patch_px: Side of its patches.
        clip_tokens: Context length of both CLIP encoders, begin and end of text included; None is
            the shortest that holds every caption of the data.
        t5_tokens: Context length of T5, end of text included; None likewise.
    """

    __pydantic_config__ = STRICT

    clip_l_width: int = 64
    clip_g_width: int = 96
    t5_width: int = 192
    clip_layers: int = 3
    t5_layers: int = 2
    vision_width: int = 96
    vision_layers: int = 3
    vision_patch_px: int = 8
    clip_tokens: int | None = None
    t5_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("clip_l_width", "clip_g_width", "t5_width", "vision_width"):
            width = getattr(self, name)
            if width < HEAD_WIDTH or width % HEAD_WIDTH:
                raise ValueError(f"{name} must be a positive multiple of {HEAD_WIDTH}, got {width}")
        for name, least in (
            ("clip_layers", 2),
            ("t5_layers", 1),
            ("vision_layers", 1),
            ("vision_patch_px", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        for name, least in (("clip_tokens", 3), ("t5_tokens", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if self.clip_l_width + self.clip_g_width > self.t5_width:
            raise ValueError(
                f"clip_l_width + clip_g_width must be <= t5_width {self.t5_width}, "
                f"got {self.clip_l_width} + {self.clip_g_width}"
            )
