"""Parts of the networks with one set of weights for all their tokens: DiT, CrossDiT and U-ViT."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.nn.attention import NORM_EPS, QKNorm, attention, joint_attention
from rectiflow.nn.blocks import Modulation
from rectiflow.nn.embeddings import FREQUENCY_WIDTH, VectorEmbedding, time_features
from rectiflow.nn.kernels import gelu, modulate, no_autocast, wide

Tokens = Float[Tensor, "batch tokens width"]


class ModulationVector(nn.Module):
    """Time and pooled text to the vector that steers every block, as in MM-DiT."""

    def __init__(self, pooled_width: int, width: int) -> None:
        super().__init__()
        self.time_embedding = VectorEmbedding(FREQUENCY_WIDTH, width)
        self.pooled_embedding = VectorEmbedding(pooled_width, width)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Matrices Normal(0, 0.02^2), biases 0 (DiT, arXiv:2212.09748)."""
        for embedding in (self.time_embedding, self.pooled_embedding):
            for layer in (embedding.expand, embedding.project):
                nn.init.normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(
        self, t: Float[Tensor, " batch"], pooled: Float[Tensor, "batch pooled_width"]
    ) -> Float[Tensor, "batch width"]:
        """SiLU of the sum; no autocast, for times that differ little must differ."""
        with no_autocast(t.device):
            cond = self.time_embedding(time_features(t)) + self.pooled_embedding(pooled)
            return nn.functional.silu(cond)


class SelfAttention(nn.Module):
    """All tokens of one sequence attend to each other."""

    def __init__(self, width: int, head_width: int, qk_norm: bool) -> None:
        super().__init__()
        self.head_width = head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = QKNorm(head_width) if qk_norm else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tokens) -> Tokens:
        batch, tokens, width = x.shape
        heads = width // self.head_width
        projected = self.qkv(x).view(batch, tokens, 3, heads, self.head_width)
        scale = None if self.qk_norm is None else self.qk_norm.scale
        (attended,) = joint_attention([projected], [scale])
        return self.out(attended)


class CrossAttention(nn.Module):
    """Image tokens attend to the text tokens."""

    def __init__(self, width: int, head_width: int, qk_norm: bool) -> None:
        super().__init__()
        self.head_width = head_width
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.qk_norm = QKNorm(head_width) if qk_norm else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tokens, context: Float[Tensor, "batch texts width"]) -> Tokens:
        q = self.q(x).unflatten(-1, (-1, self.head_width))
        k, v = self.kv(context).unflatten(-1, (2, -1, self.head_width)).unbind(2)
        if self.qk_norm is not None:
            q, k = (
                nn.functional.rms_norm(wide(y), y.shape[-1:], wide(scale), NORM_EPS).to(y.dtype)
                for y, scale in zip((q, k), self.qk_norm.scale, strict=True)
            )
        attended = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention and a perceptron steered by adaLN-zero (DiT, arXiv:2212.09748).

    With `has_cross`, cross attention to the text stands between the two, without norm or gate, as
    in PixArt-alpha (arXiv:2310.00426).
    """

    def __init__(self, width: int, head_width: int, qk_norm: bool, has_cross: bool = False) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention = SelfAttention(width, head_width, qk_norm)
        self.cross = CrossAttention(width, head_width, qk_norm) if has_cross else None
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Matrices Xavier-uniform, biases 0, scales of norms 1; modulation and `cross.out` 0.

        So the block starts as the identity (DiT and PixArt's released code).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                start_linear(module, generator)
            if isinstance(module, QKNorm):
                module.reset_parameters()
        nn.init.zeros_(self.modulation.project.weight)
        if self.cross is not None:
            nn.init.zeros_(self.cross.out.weight)

    def forward(
        self,
        x: Tokens,
        activated: Float[Tensor, "batch width"],
        context: Float[Tensor, "batch texts width"] | None = None,
    ) -> Tokens:
        """Tokens after the block; `activated` is what `ModulationVector` returns."""
        shift, scale, gate, *mlp = self.modulation(activated)
        attended = self.attention(modulate(x, shift, scale))
        x = torch.addcmul(x, gate, attended.to(x.dtype))
        if self.cross is not None and context is not None:
            x = x + self.cross(x, context).to(x.dtype)
        shift, scale, gate = mlp
        hidden = gelu(self.expand(modulate(x, shift, scale)))
        return torch.addcmul(x, gate, self.project(hidden).to(x.dtype))


def start_linear(layer: nn.Linear, generator: torch.Generator | None = None) -> None:
    """Xavier-uniform matrix, bias 0."""
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
