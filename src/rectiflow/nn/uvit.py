"""U-ViT of simple diffusion (arXiv:2301.11093), a baseline of SD3 (arXiv:2403.03206, Fig. 4)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.embeddings import PositionTable
from rectiflow.nn.kernels import no_autocast
from rectiflow.nn.transformer import Block, ModulationVector, start_linear

Map = Float[Tensor, "batch _ _ _"]  # channels, rows, columns


@dataclass(frozen=True, kw_only=True)
class UViTConfig:
    """Shape of a U-ViT; the width of its core is `head_width * num_heads`.

    Args:
        channels: Channels of each convolutional level; every level halves the sides.
        num_resnets: Residual blocks per level, on the way down and on the way up.
        depth: Blocks of the transformer, the core.
        num_heads: Attention heads.
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text vector.
        base_side: Tokens per side of the core at the base size; sets the scale of the positions.
        table_side: Tokens per side of the core for the largest picture.
        qk_norm: Whether queries and keys are normalised.
        head_width: Channels of an attention head; the width must be a multiple of 4.
        norm_groups: Groups of every group norm.

    Raises:
        ValueError: If a number is not positive, the groups do not divide the channels, the width is
            not a multiple of 4 or the table is smaller than a picture of the base size.
    """

    channels: tuple[int, ...]
    num_resnets: int = 2
    depth: int
    num_heads: int
    latent_channels: int = 16
    context_width: int
    pooled_width: int
    base_side: int
    table_side: int
    qk_norm: bool = True
    head_width: int = 64
    norm_groups: int = 32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("qk_norm", "channels") and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not self.channels or any(n < 1 or n % self.norm_groups for n in self.channels):
            raise ValueError(
                f"channels must be multiples of norm_groups {self.norm_groups}, "
                f"got {list(self.channels)}"
            )
        if self.width % 4:
            raise ValueError(f"the width must be a multiple of 4, got {self.width}")
        if self.table_side < self.base_side:
            raise ValueError(
                f"table_side must be at least base_side, got {self.table_side} < {self.base_side}"
            )

    @property
    def width(self) -> int:
        """Channels of a token of the core."""
        return self.head_width * self.num_heads

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return 2 ** len(self.channels)

    @property
    def base_latent_side(self) -> int:
        """Side of the latent it is made for."""
        return self.base_side * self.latent_multiple

    @property
    def max_latent_side(self) -> int:
        """Side of the largest latent."""
        return self.table_side * self.latent_multiple

    @property
    def takes_pooled(self) -> bool:
        """Yes: pooled text and time together modulate all blocks."""
        return True


class ResidualBlock(nn.Module):
    """Two convolutions with group norms, the second norm steered by the modulation vector."""

    def __init__(self, inputs: int, outputs: int, steering: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, inputs)
        self.convolve = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(steering, 2 * outputs)
        self.steered_norm = nn.GroupNorm(groups, outputs)
        self.project = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Map, activated: Float[Tensor, "batch steering"]) -> Map:
        with no_autocast(x.device):
            shift, scale = self.modulation(activated)[:, :, None, None].chunk(2, dim=1)
        hidden = self.convolve(nn.functional.silu(self.norm(x)))
        hidden = self.steered_norm(hidden.to(activated.dtype))
        hidden = self.project(nn.functional.silu(torch.addcmul(shift, hidden, 1 + scale)))
        straight = x if self.shortcut is None else self.shortcut(x).to(x.dtype)
        return straight + hidden.to(x.dtype)


class Down(nn.Module):
    """One level on the way down: residual blocks, then half the sides."""

    def __init__(self, channels: int, outputs: int, config: UViTConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(channels, channels, config.width, config.norm_groups)
            for _ in range(config.num_resnets)
        )
        self.shrink = nn.Conv2d(channels, outputs, 3, stride=2, padding=1)

    def forward(self, x: Map, activated: Tensor) -> tuple[Map, list[Map]]:
        """The smaller map, and what every residual block put out."""
        kept = []
        for resnet in self.resnets:
            x = resnet(x, activated)
            kept.append(x)
        return self.shrink(x).to(x.dtype), kept


class Up(nn.Module):
    """One level on the way up: twice the sides, then residual blocks that also see the way down."""

    def __init__(self, inputs: int, channels: int, config: UViTConfig) -> None:
        super().__init__()
        self.enlarge = nn.Conv2d(inputs, channels, 3, padding=1)
        self.resnets = nn.ModuleList(
            ResidualBlock(2 * channels, channels, config.width, config.norm_groups)
            for _ in range(config.num_resnets)
        )

    def forward(self, x: Map, activated: Tensor, kept: list[Map]) -> Map:
        doubled = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.enlarge(doubled).to(x.dtype)
        for resnet, beside in zip(self.resnets, reversed(kept), strict=True):
            x = resnet(torch.cat([x, beside], dim=1), activated)
        return x


class UViT(nn.Module):
    """Velocity field of a latent picture, given a text: convolutions outside, transformer inside.

    Unstated in the SD3 paper: everything but that it is the U-ViT of simple diffusion. That one
    gives the plan (residual blocks where sides are long, a transformer in place of the innermost
    levels, connections across) for pictures; for latents we halve by strided convolution. The text
    joins the tokens of the core in one sequence, as in our DiT, whose blocks the core takes.
    """

    def __init__(self, config: UViTConfig) -> None:
        super().__init__()
        self.config = config
        width, steps = config.width, [*config.channels, config.width]
        levels = list(pairwise(steps))
        self.first = nn.Conv2d(config.latent_channels, steps[0], 3, padding=1)
        self.context_embedding = nn.Linear(config.context_width, width)
        self.modulation_vector = ModulationVector(config.pooled_width, width)
        self.down = nn.ModuleList(Down(outer, inner, config) for outer, inner in levels)
        self.positions = PositionTable(
            width, config.base_side, config.table_side, config.table_side
        )
        self.blocks = nn.ModuleList(
            Block(width, config.head_width, config.qk_norm) for _ in range(config.depth)
        )
        self.up = nn.ModuleList(Up(inner, outer, config) for outer, inner in reversed(levels))
        self.norm = nn.GroupNorm(config.norm_groups, steps[0])
        self.last = nn.Conv2d(steps[0], config.latent_channels, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Every block starts as the identity on its own path, and the first velocity is 0.

        Convolutions from torch's own law but for the second of each residual block and the last of
        all, which are 0; the core as in DiT (arXiv:2212.09748).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                bound = module.weight[0].numel() ** -0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
            if isinstance(module, nn.GroupNorm):
                module.reset_parameters()
        start_linear(self.context_embedding, generator)
        self.modulation_vector.reset_parameters(generator)
        for block in self.blocks:
            block.reset_parameters(generator)  # pyright: ignore[reportCallIssue]
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.modulation.weight)
                nn.init.zeros_(module.modulation.bias)
                nn.init.zeros_(module.project.weight)
        nn.init.zeros_(self.last.weight)

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
        (height, width), multiple = x.shape[-2:], self.config.latent_multiple
        if height % multiple or width % multiple:
            raise ValueError(f"sides must be multiples of {multiple}, got {height}x{width}")
        activated = self.modulation_vector(t, cond.pooled)
        dtype = activated.dtype
        hidden, kept = self.first(x.to(dtype)).to(dtype), []
        for level in self.down:
            hidden, beside = level(hidden, activated)
            kept.append(beside)
        hidden = self._core(hidden, self.context_embedding(cond.context.to(dtype)), activated)
        for level in self.up:
            hidden = level(hidden, activated, kept.pop())
        with no_autocast(x.device):
            return self.last(nn.functional.silu(self.norm(hidden))).to(x.dtype)

    def _core(self, inner: Map, context: Tensor, activated: Tensor) -> Map:
        """The transformer on the positions of the innermost map and the text."""
        rows, columns = inner.shape[-2:]
        image = inner.flatten(2).transpose(1, 2) + self.positions(rows, columns)
        tokens = torch.cat([context.to(image.dtype), image], dim=1)
        for block in self.blocks:
            tokens = block(tokens, activated)
        return tokens[:, context.shape[1] :].transpose(1, 2).unflatten(2, (rows, columns))
