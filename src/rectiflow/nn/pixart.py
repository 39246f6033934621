"""PixArt-alpha (arXiv:2310.00426): diffusers' class behind our call.

Table 2 of arXiv:2404.02883 varies it; `tables` holds its rows in terms of this configuration.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.discrete_time import NUM_DISCRETE_TIMES, discrete_time


@dataclass(frozen=True, kw_only=True)
class PixArtConfig:
    """Shape of a PixArt-alpha; its width is `num_heads * head_width`.

    Text tokens pass a perceptron first, unless they are as wide as the network
    (arXiv:2404.02883, Table 2).

    Args:
        depth: Number of blocks.
        num_heads: Attention heads.
        head_width: Channels of an attention head; the width must be a multiple of 4.
        patch_size: Latent pixels per side of an image token.
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text, which this network does not take.
        base_latent_side: Side of the latent it is made for; sets the scale of the positions.

    Raises:
        ValueError: If a number is not positive, or width, patches and side do not fit.
    """

    depth: int
    num_heads: int = 16
    head_width: int = 72
    patch_size: int = 2
    latent_channels: int = 4
    context_width: int
    pooled_width: int
    base_latent_side: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.width % 4:
            raise ValueError(f"num_heads * head_width must be a multiple of 4, got {self.width}")
        if self.base_latent_side % self.patch_size:
            raise ValueError(
                f"base_latent_side must be a multiple of patch_size {self.patch_size}, "
                f"got {self.base_latent_side}"
            )

    @property
    def width(self) -> int:
        """Channels of a token inside the network."""
        return self.num_heads * self.head_width

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return self.patch_size

    @property
    def max_latent_side(self) -> None:
        """Positions are computed for any size."""
        return None

    @property
    def takes_pooled(self) -> bool:
        """No: time alone modulates the blocks."""
        return False


class PixArt(nn.Module):
    """Velocity field of a latent picture, given text tokens; `inner` is diffusers' transformer.

    The pooled text is ignored. The second half of the channels that `inner` puts out, a variance in
    PixArt, is dropped. Under autocast the sinusoid of time is computed in float32, all after it as
    diffusers does (no island for time).
    """

    def __init__(self, config: PixArtConfig) -> None:
        from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

        super().__init__()
        self.config = config
        settings = _diffusers_settings(config)
        self.inner: Any = PixArtTransformer2DModel(**settings)
        with torch.device("cpu"):  # positions are in no file: real even in a network built on meta
            patches = type(self.inner.pos_embed)(
                settings["sample_size"],
                settings["sample_size"],
                config.patch_size,
                config.latent_channels,
                config.width,
                interpolation_scale=self.inner.pos_embed.interpolation_scale,
            )
        self.inner.pos_embed.pos_embed = patches.pos_embed
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start as PixArt's released code does: the first velocity is 0.

        Matrices Xavier-uniform, biases 0, the embeddings of time and text and the shared modulation
        Normal(0, 0.02^2), tables of modulation Normal(0, 1 / width), the way out of every cross
        attention and the last projection 0.
        """
        inner = self.inner
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1), 1.0, generator)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        for part in (inner.adaln_single, inner.caption_projection):
            for module in () if part is None else part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02, generator=generator)
        for holder in (inner, *inner.transformer_blocks):
            std = 1 / math.sqrt(self.config.width)
            nn.init.normal_(holder.scale_shift_table, std=std, generator=generator)
        for block in inner.transformer_blocks:
            nn.init.zeros_(block.attn2.to_out[0].weight)
        nn.init.zeros_(inner.proj_out.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        cond: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Velocity at latent `x` and time `t` (0 = data, 1 = noise) for the texts of `cond`.

        Raises:
            ValueError: If a side is not a multiple of the patch size.
        """
        (height, width), patch = x.shape[-2:], self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"sides must be multiples of {patch}, got {height}x{width}")
        dtype = self.inner.proj_out.weight.dtype
        both = self.inner(
            x.to(dtype), cond.context.to(dtype), timestep=discrete_time(t), return_dict=False
        )[0]
        return both[:, : self.config.latent_channels].to(x.dtype)


def _diffusers_settings(config: PixArtConfig) -> dict[str, Any]:
    """Arguments of `PixArtTransformer2DModel`."""
    return {
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_width,
        "num_layers": config.depth,
        "in_channels": config.latent_channels,
        "out_channels": 2 * config.latent_channels,
        "cross_attention_dim": config.width,
        "caption_channels": None if config.context_width == config.width else config.context_width,
        "sample_size": config.base_latent_side,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": NUM_DISCRETE_TIMES,
        "use_additional_conditions": False,
    }
