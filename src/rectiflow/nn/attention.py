"""Joint attention of two token sequences, each projected with its own weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

QKV = Float[Tensor, "batch tokens 3 heads head_width"]


class QKNorm(nn.Module):
    """RMS norm of every head of the queries and of the keys, with a learnable scale per channel.

    Keeps attention logits bounded in mixed precision (SD3, Sec. 5.3.2). Row 0 of `scale` belongs to
    the queries, row 1 to the keys.
    """

    def __init__(self, head_width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(2, head_width))

    def forward(self, qkv: QKV) -> QKV:
        qk, v = qkv[:, :, :2], qkv[:, :, 2:]
        inverse = torch.rsqrt(qk.float().square().mean(-1, keepdim=True) + self.eps)
        normed = (qk * inverse * self.scale[:, None]).to(v.dtype)
        return torch.cat([normed, v], dim=2)


def joint_attention(
    context: QKV, image: QKV
) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch pixels width"]]:
    """Every token attends to all tokens of both sequences; returned apart again."""
    num_context = context.shape[1]
    qkv = torch.cat([context, image], dim=1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    out = nn.functional.scaled_dot_product_attention(q, k, v)
    out = out.transpose(1, 2).flatten(2)
    return out[:, :num_context], out[:, num_context:]
