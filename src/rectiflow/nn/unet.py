"""The UNets of Stable Diffusion 2, SDXL and IF: diffusers' class behind our call.

Table 1 of arXiv:2404.02883 varies them; `tables` holds its rows in terms of this configuration.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.discrete_time import discrete_time

FAMILIES = ("sd", "if")
IF_POOL_HEADS = 64  # of the attention that pools the text, as released (DeepFloyd/IF-I-XL-v1.0)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a UNet.

    Args:
        family: "sd" for the blocks of Stable Diffusion 2 and SDXL, transformers with a perceptron;
            "if" for those of IF, attention alone.
        channels: Channels of each level, from the full latent to the smallest.
        depths: Transformer blocks per level, 0 for a level without attention; the middle takes the
            last number that is not 0. In family "if" 1 marks a level with attention.
        num_resnets: Residual blocks per level on the way down; one more on the way up.
        head_width: Channels of an attention head.
        norm_groups: Groups of every group norm.
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text, which no row of the paper's table takes.
        base_latent_side: Side of the latent it is made for.

    Raises:
        ValueError: If the levels are named differently, or widths, heads and groups do not fit.
    """

    family: str = "sd"
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    num_resnets: int = 2
    head_width: int = 64
    norm_groups: int = 32
    latent_channels: int = 4
    context_width: int
    pooled_width: int
    base_latent_side: int

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}")
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self._check_levels()
        if self.base_latent_side % self.latent_multiple:
            raise ValueError(
                f"base_latent_side must be a multiple of {self.latent_multiple}, one halving per "
                f"level but the last, got {self.base_latent_side}"
            )
        if self.family == "if" and self.context_width % IF_POOL_HEADS:
            raise ValueError(
                f"context_width must be a multiple of {IF_POOL_HEADS} in family 'if', "
                f"got {self.context_width}"
            )

    def _check_levels(self) -> None:
        if len(self.channels) != len(self.depths) or not any(self.depths):
            raise ValueError(
                "depths must name as many levels as channels, not all 0, "
                f"got {self.depths} for {self.channels}"
            )
        if min(self.depths) < 0 or (self.family == "if" and max(self.depths) > 1):
            raise ValueError(f"depths must be >= 0, and 0 or 1 in family 'if', got {self.depths}")
        for width in self.channels:
            if width < 1 or width % self.norm_groups or width % self.head_width:
                raise ValueError(
                    f"channels must be multiples of norm_groups {self.norm_groups} and head_width "
                    f"{self.head_width}, got {self.channels}"
                )

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    @property
    def max_latent_side(self) -> None:
        """Convolutions know no positions: any size."""
        return None

    @property
    def takes_pooled(self) -> bool:
        """No: the paper adds no conditioning beside the text tokens (arXiv:2404.02883, Sec. 3)."""
        return False


class UNet(nn.Module):
    """Velocity field of a latent picture, given text tokens; `inner` is diffusers' UNet.

    The pooled text is ignored; family "if" pools the tokens itself, as IF does. Under autocast the
    sinusoid of time is computed in float32, all after it as diffusers does (no island for time).
    """

    def __init__(self, config: UNetConfig) -> None:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        super().__init__()
        self.config = config
        self.inner: Any = UNet2DConditionModel(**_diffusers_settings(config))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start from torch's own laws, with a last convolution of 0: the first velocity is 0.

        Unstated in the paper. The last layer of guided diffusion's UNet (arXiv:2105.05233, released
        code), which all of these descend from, starts at 0 too.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                bound = module.weight[0].numel() ** -0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                if module.bias is not None:
                    nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.reset_parameters()
        for name, parameter in self.inner.named_parameters():
            if name.endswith("positional_embedding"):  # of the pooling of family "if"
                std = 1 / math.sqrt(parameter.shape[-1])
                nn.init.normal_(parameter, std=std, generator=generator)
        nn.init.zeros_(self.inner.conv_out.weight)
        nn.init.zeros_(self.inner.conv_out.bias)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        cond: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Velocity at latent `x` and time `t` (0 = data, 1 = noise) for the texts of `cond`.

        Raises:
            ValueError: If a side is not a multiple of `config.latent_multiple`.
        """
        height, width = x.shape[-2:]
        multiple = self.config.latent_multiple
        if height % multiple or width % multiple:
            raise ValueError(f"sides must be multiples of {multiple}, got {height}x{width}")
        dtype = self.inner.conv_out.weight.dtype
        context = cond.context.to(dtype)
        return self.inner(x.to(dtype), discrete_time(t), context, return_dict=False)[0].to(x.dtype)


def _diffusers_settings(config: UNetConfig) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel`.

    Its `attention_head_dim` means the number of heads in blocks of family "sd" and the width of a
    head in those of family "if".
    """
    shared = {
        "sample_size": config.base_latent_side,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "block_out_channels": config.channels,
        "layers_per_block": config.num_resnets,
        "cross_attention_dim": config.context_width,
        "norm_num_groups": config.norm_groups,
    }
    if config.family == "if":
        down, up = _blocks(config, "SimpleCrossAttn{}Block2D", "Resnet{}sampleBlock2D")
        return shared | {
            "down_block_types": down,
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": up,
            "attention_head_dim": config.head_width,
            "act_fn": "gelu",
            "resnet_time_scale_shift": "scale_shift",
            "cross_attention_norm": "group_norm",
            "addition_embed_type": "text",
            "addition_embed_type_num_heads": IF_POOL_HEADS,
        }
    down, up = _blocks(config, "CrossAttn{}Block2D", "{}Block2D")
    middle = [depth for depth in config.depths if depth][-1]
    return shared | {
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": up,
        "attention_head_dim": tuple(width // config.head_width for width in config.channels),
        # The number of a level without attention is unused, but the last one is the middle's.
        "transformer_layers_per_block": tuple(depth or middle for depth in config.depths),
        "use_linear_projection": True,
    }


def _blocks(
    config: UNetConfig, attending: str, plain: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the blocks on the way down, and on the way up."""
    forms = [attending if depth else plain for depth in config.depths]
    down = tuple(form.format("Down") for form in forms)
    return down, tuple(form.format("Up") for form in reversed(forms))
