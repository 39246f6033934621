"""Networks as a recipe's `model` section names them. Imports no torch: reading a recipe costs none.

Widths of latent and text follow from the encoders, the base size from the data; `backbones` puts
all three together.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from rectiflow.config import STRICT, by_kind, default_kind

KINDS = ("mmdit", "dit", "crossdit", "uvit", "unet", "pixart")


@dataclass(frozen=True, kw_only=True, slots=True)
class MMDiTSettings:
    """MM-DiT, the network of SD3 (arXiv:2403.03206, Sec. 4).

    Args:
        depth: The one dial of size: width 64 depth, heads depth.
        patch_size: Latent pixels per side of an image token.
        qk_norm: Whether queries and keys are normalised.
        table_factor: Largest side that positions are made for, in units of the trained one.
        num_weight_sets: 2, or 3 to give the CLIP tokens and the T5 tokens weights of their own.
    """

    __pydantic_config__ = STRICT

    kind: Literal["mmdit"] = "mmdit"
    depth: int = 4
    patch_size: int = 2
    qk_norm: bool = True
    table_factor: int = 2
    num_weight_sets: Literal[2, 3] = 2

    def __post_init__(self) -> None:
        _check_positive(self, "depth", "patch_size", "table_factor")

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTSettings:
    """DiT on text and image tokens in one sequence, with one set of weights.

    Args:
        depth: Number of blocks.
        num_heads: Heads of 64 channels; None for as many as there are blocks.
        patch_size: Latent pixels per side of an image token.
        qk_norm: Whether queries and keys are normalised.
        table_factor: Largest side that positions are made for, in units of the trained one.
    """

    __pydantic_config__ = STRICT

    kind: Literal["dit"] = "dit"
    depth: int = 4
    num_heads: int | None = None
    patch_size: int = 2
    qk_norm: bool = True
    table_factor: int = 2

    def __post_init__(self) -> None:
        _check_positive(self, "depth", "num_heads", "patch_size", "table_factor")

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossDiTSettings:
    """DiT on image tokens, each block of which attends across to the text; as `DiTSettings`."""

    __pydantic_config__ = STRICT

    kind: Literal["crossdit"] = "crossdit"
    depth: int = 4
    num_heads: int | None = None
    patch_size: int = 2
    qk_norm: bool = True
    table_factor: int = 2

    def __post_init__(self) -> None:
        _check_positive(self, "depth", "num_heads", "patch_size", "table_factor")

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class UViTSettings:
    """U-ViT of simple diffusion (arXiv:2301.11093): a UNet outside, a transformer inside.

    Args:
        channels: Channels of each convolutional level; every level halves the sides.
        num_resnets: Residual blocks per level, on the way down and up.
        depth: Blocks of the transformer.
        num_heads: Heads of 64 channels; None for as many as there are blocks.
        qk_norm: Whether queries and keys are normalised.
        norm_groups: Groups of every group norm; must divide all channels.
        table_factor: Largest side that positions are made for, in units of the trained one.
    """

    __pydantic_config__ = STRICT

    kind: Literal["uvit"] = "uvit"
    channels: tuple[int, ...] = (128,)
    num_resnets: int = 2
    depth: int = 4
    num_heads: int | None = None
    qk_norm: bool = True
    norm_groups: int = 32
    table_factor: int = 2

    def __post_init__(self) -> None:
        _check_positive(self, "num_resnets", "depth", "num_heads", "norm_groups", "table_factor")
        _check_levels(self.channels)

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return 2 ** len(self.channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetSettings:
    """UNet of Stable Diffusion 2, SDXL or IF; rows of arXiv:2404.02883, Table 1, and others.

    Args:
        family: "sd" for transformers in the levels that attend, "if" for attention alone.
        channels: Channels of each level, from the full latent to the smallest.
        depths: Transformer blocks per level, 0 for a level without attention.
        num_resnets: Residual blocks per level on the way down; one more on the way up.
        head_width: Channels of an attention head.
        norm_groups: Groups of every group norm.
    """

    __pydantic_config__ = STRICT

    kind: Literal["unet"] = "unet"
    family: Literal["sd", "if"] = "sd"
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    depths: tuple[int, ...] = (1, 1, 1, 0)
    num_resnets: int = 2
    head_width: int = 64
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _check_positive(self, "num_resnets", "head_width", "norm_groups")
        _check_levels(self.channels)

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixArtSettings:
    """PixArt-alpha; rows of arXiv:2404.02883, Table 2, and others.

    Args:
        depth: Number of blocks.
        num_heads: Attention heads; the width is `num_heads * head_width`.
        head_width: Channels of an attention head.
        patch_size: Latent pixels per side of an image token.
    """

    __pydantic_config__ = STRICT

    kind: Literal["pixart"] = "pixart"
    depth: int = 28
    num_heads: int = 16
    head_width: int = 72
    patch_size: int = 2

    def __post_init__(self) -> None:
        _check_positive(self, "depth", "num_heads", "head_width", "patch_size")

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return self.patch_size


NetworkSettings = (
    MMDiTSettings | DiTSettings | CrossDiTSettings | UViTSettings | UNetSettings | PixArtSettings
)
AnyNetworkSettings = Annotated[NetworkSettings, by_kind, default_kind("mmdit")]


def _check_positive(settings: NetworkSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def _check_levels(channels: tuple[int, ...]) -> None:
    if not channels or min(channels) < 1:
        raise ValueError(f"channels must name a width >= 1 for each level, got {list(channels)}")
