"""MM-DiT, the network of SD3 (arXiv:2403.03206, Sec. 4 and Fig. 2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.blocks import JointBlock, Modulation
from rectiflow.nn.embeddings import (
    FREQUENCY_WIDTH,
    PositionTable,
    VectorEmbedding,
    patchify,
    time_features,
    unpatchify,
)
from rectiflow.nn.kernels import modulate, no_autocast


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Shape of an MM-DiT; one dial, the depth, sets its size.

    Args:
        depth: Number of blocks, and of attention heads; the width is `head_width * depth`.
        patch_size: Latent pixels per side of an image token.
        latent_channels: Channels of the latent.
        context_width: Width of the text tokens.
        pooled_width: Width of the pooled text vector.
        base_side: Image tokens per side at the base size; sets the scale of the positions.
        table_side: Image tokens per side of the largest picture.
        qk_norm: Whether queries and keys are normalised.
        head_width: Channels of an attention head, a multiple of 4.

    Raises:
        ValueError: If a number is not positive, `head_width` is not a multiple of 4 or the table is
            smaller than a picture of the base size.
    """

    depth: int
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
            if name != "qk_norm" and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.head_width % 4:
            raise ValueError(f"head_width must be a multiple of 4, got {self.head_width}")
        if self.table_side < self.base_side:
            raise ValueError(
                f"table_side must be at least base_side, got {self.table_side} < {self.base_side}"
            )

    @property
    def width(self) -> int:
        """Channels of a token inside the network."""
        return self.head_width * self.depth


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
    an `image` stream: `modulation`, `qkv`, `qk_norm`, `out`, `expand`, `project`), `final`.
    """

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size**2 * config.latent_channels
        self.patch_embedding = nn.Linear(patch, width)
        self.positions = PositionTable(width, config.base_side, config.table_side)
        self.context_embedding = nn.Linear(config.context_width, width)
        self.time_embedding = VectorEmbedding(FREQUENCY_WIDTH, width)
        self.pooled_embedding = VectorEmbedding(config.pooled_width, width)
        self.blocks = nn.ModuleList(
            JointBlock(width, config.head_width, config.qk_norm, is_last=i == config.depth - 1)
            for i in range(config.depth)
        )
        self.final = FinalLayer(width, patch)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Start as DiT does (arXiv:2212.09748, adaLN-zero); unstated in the SD3 paper.

        Matrices Xavier-uniform, biases 0, the embeddings of time and pooled text Normal(0, 0.02^2);
        every modulation and the final projection 0, so that each block starts as the identity and
        the first velocity is 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
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
    ) -> Float[Tensor, "batch channels height width"]:
        """Velocity at latent `x` and time `t` (0 = data, 1 = noise) for the texts of `cond`."""
        height, width, patch = *x.shape[-2:], self.config.patch_size
        activated = self._activated(t, cond.pooled)
        dtype = activated.dtype  # of the weights; the tokens keep it between blocks
        image = self.patch_embedding(patchify(x, patch).to(dtype)).to(dtype)
        image = image + self.positions(height // patch, width // patch)
        context = self.context_embedding(cond.context.to(dtype)).to(dtype)
        for block in self.blocks:
            context, image = block(context, image, activated)
        return unpatchify(self.final(image, activated), patch, height, width).to(x.dtype)

    def _activated(self, t: Tensor, pooled: Tensor) -> Tensor:
        """SiLU of the modulation vector; no autocast, for times that differ little must differ."""
        with no_autocast(t.device):
            cond = self.time_embedding(time_features(t)) + self.pooled_embedding(pooled)
            return nn.functional.silu(cond)
