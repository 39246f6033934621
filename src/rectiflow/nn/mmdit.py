"""MM-DiT, the network of SD3 (arXiv:2403.03206, Sec. 4 and Fig. 2)."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.attention import QKNorm
from rectiflow.nn.blocks import JointBlock, Modulation
from rectiflow.nn.embeddings import (
    FREQUENCY_WIDTH,
    PositionTable,
    VectorEmbedding,
    patchify,
    position_table,
    time_features,
    unpatchify,
)
from rectiflow.nn.kernels import modulate, no_autocast


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Shape of an MM-DiT; in the paper one dial, the depth, sets its size.

    Args:
        depth: Number of blocks.
        num_heads: Number of attention heads; the width is `head_width * num_heads`. None for as
            many as there are blocks, as in the paper and the released models.
        patch_size: Latent pixels per side of an image token.
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text vector.
        base_side: Image tokens per side at the base size; sets the scale of the positions.
        table_side: Image tokens per side of the largest picture.
        table_rows: Image tokens of the tallest picture where that is not `table_side`.
        qk_norm: Whether queries and keys are normalised.
        head_width: Channels of an attention head.
        dual_attention: Blocks, counted from 0, whose image tokens also attend to themselves alone.
        num_weight_sets: 2 for one set of weights for all text tokens, 3 for one for the CLIP tokens
            and one for the T5 tokens.

    Raises:
        ValueError: If a number is not positive, the width is not a multiple of 4, the table is
            smaller than a picture of the base size, a block is named that is not there or twice,
            or there are not 2 or 3 weight sets.
    """

    depth: int
    num_heads: int | None = None
    patch_size: int = 2
    latent_channels: int = 16
    context_width: int
    pooled_width: int
    base_side: int
    table_side: int
    table_rows: int | None = None
    qk_norm: bool = True
    head_width: int = 64
    dual_attention: tuple[int, ...] = ()
    num_weight_sets: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is int and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.width % 4:
            raise ValueError(f"the width must be a multiple of 4, got {self.width}")
        for name, side in (("table_side", self.table_side), ("table_rows", self.rows)):
            if side < self.base_side:
                raise ValueError(
                    f"{name} must be at least base_side, got {side} < {self.base_side}"
                )
        if list(self.dual_attention) != sorted(set(self.dual_attention) & set(range(self.depth))):
            raise ValueError(
                f"dual_attention must name blocks from 0 to {self.depth - 1}, ascending, "
                f"got {list(self.dual_attention)}"
            )
        if self.num_weight_sets not in (2, 3):
            raise ValueError(f"num_weight_sets must be 2 or 3, got {self.num_weight_sets}")

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.depth if self.num_heads is None else self.num_heads

    @property
    def width(self) -> int:
        """Channels of a token inside the network."""
        return self.head_width * self.heads

    @property
    def rows(self) -> int:
        """Image tokens of the tallest picture."""
        return self.table_side if self.table_rows is None else self.table_rows

    @property
    def latent_multiple(self) -> int:
        """Both sides of a latent must be multiples of it."""
        return self.patch_size

    @property
    def base_latent_side(self) -> int:
        """Side of the latent it is made for."""
        return self.patch_size * self.base_side

    @property
    def max_latent_side(self) -> int:
        """Side of the largest square latent that it takes."""
        return self.patch_size * min(self.rows, self.table_side)

    @property
    def takes_pooled(self) -> bool:
        """Whether the pooled text vector has a say."""
        return True


class FinalLayer(nn.Module):
    """Image tokens to patches of velocity; starts at zero."""

    def __init__(self, width: int, patch_features: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2)
        self.project = nn.Linear(width, patch_features)

    def forward(
        self, image: Float[Tensor, "batch tokens width"], activated: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch tokens features"]:
        with no_autocast(image.device):
            return self.project(modulate(image, *self.modulation(activated)))


class MMDiT(nn.Module):
    """Velocity field of a latent picture, given a text.

    Modules, in the order of the paper's figure: `patch_embedding`, `positions`,
    `context_embedding`, `time_embedding`, `pooled_embedding`, `blocks` (each with a `context` and
    an `image` stream: `modulation`, `qkv`, `qk_norm`, `out`, `expand`, `project`; and a `t5` stream
    with three weight sets), `final`.

    Unstated in the paper: whether with three weight sets the first layer of the text has two sets
    as well; here it has one.
    """

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size**2 * config.latent_channels
        self.patch_embedding = nn.Linear(patch, width)
        self.positions = PositionTable(width, config.base_side, config.rows, config.table_side)
        self.context_embedding = nn.Linear(config.context_width, width)
        self.time_embedding = VectorEmbedding(FREQUENCY_WIDTH, width)
        self.pooled_embedding = VectorEmbedding(config.pooled_width, width)
        self.blocks = nn.ModuleList(
            JointBlock(
                width,
                config.head_width,
                config.qk_norm,
                is_last=i == config.depth - 1,
                is_dual=i in config.dual_attention,
                num_weight_sets=config.num_weight_sets,
            )
            for i in range(config.depth)
        )
        self.final = FinalLayer(width, patch)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start as DiT does (arXiv:2212.09748, adaLN-zero); unstated in the SD3 paper.

        Matrices Xavier-uniform, biases 0, scales of norms 1, the embeddings of time and pooled text
        Normal(0, 0.02^2); every modulation and the final projection 0, so that each block starts as
        the identity and the first velocity is 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            if isinstance(module, QKNorm):
                module.reset_parameters()
        for embedding in (self.time_embedding, self.pooled_embedding):
            nn.init.normal_(embedding.expand.weight, std=0.02, generator=generator)
            nn.init.normal_(embedding.project.weight, std=0.02, generator=generator)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.project.weight)
        nn.init.zeros_(self.final.project.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        cond: Conditioning,
        skip_blocks: Collection[int] = (),
    ) -> Float[Tensor, "batch channels height width"]:
        """Velocity at latent `x` and time `t` (0 = data, 1 = noise) for the texts of `cond`.

        Blocks in `skip_blocks` are left out: a worse velocity, which skip-layer guidance leads away
        from (SD3.5 Medium).

        Raises:
            ValueError: If the latent's sides do not fit, a block is named that is not there, or
                there are three weight sets and not two segments of text.
        """
        if not set(skip_blocks) <= set(range(self.config.depth)):
            wrong = f"0 to {self.config.depth - 1}, got {sorted(skip_blocks)}"
            raise ValueError(f"skip_blocks must be blocks from {wrong}")
        height, width, patch = *x.shape[-2:], self.config.patch_size
        activated = self._activated(t, cond.pooled)
        dtype = activated.dtype  # of the weights; the tokens keep it between blocks
        image = self.patch_embedding(patchify(x, patch).to(dtype)).to(dtype)
        image = image + self.positions(height // patch, width // patch)
        context = self.context_embedding(cond.context.to(dtype)).to(dtype)
        tokens = [*self._by_weights(context, cond.segments), image]
        for i, block in enumerate(self.blocks):
            if i not in skip_blocks:
                tokens = block(tokens, activated)
        return unpatchify(self.final(tokens[-1], activated), patch, height, width).to(x.dtype)

    def _by_weights(self, context: Tensor, segments: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The text tokens, one sequence per set of weights."""
        if self.config.num_weight_sets == 2:
            return (context,)
        if len(segments) != 2:
            raise ValueError(
                f"three weight sets take two segments, CLIP and T5 tokens, got {segments}"
            )
        return context.split(segments, dim=1)

    def _activated(self, t: Tensor, pooled: Tensor) -> Tensor:
        """SiLU of the modulation vector; no autocast, for times that differ little must differ."""
        with no_autocast(t.device):
            cond = self.time_embedding(time_features(t)) + self.pooled_embedding(pooled)
            return nn.functional.silu(cond)


def with_positions(
    network: MMDiT, *, base_side: int, table_side: int, table_rows: int | None = None
) -> MMDiT:
    """The same weights, not copied, for pictures of another base size (SD3, App. C.2).

    A square of the new base size has the positions of one of the old: the coordinates between are
    interpolated. Longer sides extend outward, up to the extents of the new table.

    Args:
        network: Trained at its own base size.
        base_side: Image tokens per side at the new base size.
        table_side: Image tokens of the widest picture.
        table_rows: Image tokens of the tallest picture; None for `table_side`.
    """
    config = replace(
        network.config, base_side=base_side, table_side=table_side, table_rows=table_rows
    )
    with torch.device("meta"):
        other = MMDiT(config)
    weights = network.state_dict()
    table = position_table(config.width, base_side, config.rows, table_side)
    weights["positions.table"] = table.to(network.positions.table)
    other.load_state_dict(weights, assign=True)
    return other.train(network.training)
