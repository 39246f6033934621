"""The frame that DiT and CrossDiT share: all tokens meet one set of weights."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.embeddings import PositionTable, patchify, unpatchify
from rectiflow.nn.mmdit import FinalLayer
from rectiflow.nn.transformer import Block, ModulationVector, Tokens, start_linear


@dataclass(frozen=True, kw_only=True)
class SingleStreamConfig:
    """Shape of a DiT or a CrossDiT; the width is `head_width * num_heads`.

    Args:
        depth: Number of blocks.
        num_heads: Attention heads.
        patch_size: Latent pixels per side of an image token.
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text vector.
        base_side: Image tokens per side at the base size; sets the scale of the positions.
        table_side: Image tokens per side of the largest picture.
        qk_norm: Whether queries and keys are normalised.
        head_width: Channels of an attention head; the width must be a multiple of 4.

    Raises:
        ValueError: If a number is not positive, the width is not a multiple of 4 or the table is
            smaller than a picture of the base size.
    """

    depth: int
    num_heads: int
    patch_size: int = 2
    latent_channels: int = 16
    context_width: int
    pooled_width: int
    base_side: int
    table_side: int
    qk_norm: bool = True
    head_width: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1 and name != "qk_norm":
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.width % 4:
            raise ValueError(f"the width must be a multiple of 4, got {self.width}")
        if self.table_side < self.base_side:
            raise ValueError(
                f"table_side must be at least base_side, got {self.table_side} < {self.base_side}"
            )

    @property
    def width(self) -> int:
        """Channels of a token inside the network."""
        return self.head_width * self.num_heads

    @property
    def latent_multiple(self) -> int:
        """Sides of a latent must be multiples of this."""
        return self.patch_size

    @property
    def base_latent_side(self) -> int:
        """Side of the latent it is made for."""
        return self.base_side * self.patch_size

    @property
    def max_latent_side(self) -> int:
        """Side of the largest latent."""
        return self.table_side * self.patch_size

    @property
    def takes_pooled(self) -> bool:
        """Yes: pooled text and time together modulate the blocks."""
        return True


class SingleStream(nn.Module, ABC):
    """From latent to tokens, through blocks of one set of weights, and back.

    Embeddings, modulation by time and pooled text, QK norm and start are those of our MM-DiT.

    Args:
        config: Shape of the network.
        has_cross: Whether every block attends across to the text.
    """

    def __init__(self, config: SingleStreamConfig, has_cross: bool) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size**2 * config.latent_channels
        self.patch_embedding = nn.Linear(patch, width)
        self.positions = PositionTable(
            width, config.base_side, config.table_side, config.table_side
        )
        self.context_embedding = nn.Linear(config.context_width, width)
        self.modulation_vector = ModulationVector(config.pooled_width, width)
        self.blocks = nn.ModuleList(
            Block(width, config.head_width, config.qk_norm, has_cross) for _ in range(config.depth)
        )
        self.final = FinalLayer(width, patch)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start as DiT does (arXiv:2212.09748, adaLN-zero): the first velocity is 0."""
        for layer in (self.patch_embedding, self.context_embedding):
            start_linear(layer, generator)
        self.modulation_vector.reset_parameters(generator)
        for block in self.blocks:
            block.reset_parameters(generator)  # pyright: ignore[reportCallIssue]
        for layer in (self.final.modulation.project, self.final.project):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Float[Tensor, " batch"],
        cond: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Velocity at latent `x` and time `t` (0 = data, 1 = noise) for the texts of `cond`."""
        height, width, patch = *x.shape[-2:], self.config.patch_size
        activated = self.modulation_vector(t, cond.pooled)
        dtype = activated.dtype  # of the weights; the tokens keep it between blocks
        image = self.patch_embedding(patchify(x, patch).to(dtype)).to(dtype)
        image = image + self.positions(height // patch, width // patch)
        context = self.context_embedding(cond.context.to(dtype)).to(dtype)
        image = self.through_blocks(context, image, activated)
        return unpatchify(self.final(image, activated), patch, height, width).to(x.dtype)

    @abstractmethod
    def through_blocks(
        self, context: Tokens, image: Tokens, activated: Float[Tensor, "batch width"]
    ) -> Tokens:
        """The image tokens after all blocks."""
