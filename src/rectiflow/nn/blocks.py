"""One MM-DiT block: two streams with weights of their own, joined in one attention (SD3, Fig. 2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.nn.attention import QKV, QKNorm, joint_attention

Tokens = Float[Tensor, "batch tokens width"]
Vector = Float[Tensor, "batch width"]


def modulate(x: Tokens, shift: Tensor, scale: Tensor) -> Tokens:
    """Layer norm without weights, then the conditioning's own scale and shift."""
    normed = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift, normed, 1 + scale)


class Modulation(nn.Module):
    """The `num` vectors with which the conditioning steers a stream (adaLN-zero)."""

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.num = num
        self.project = nn.Linear(width, num * width)

    def forward(self, activated: Vector) -> tuple[Tensor, ...]:
        """Each of shape (batch, 1, width), in float32 unless the weights are stored otherwise."""
        with torch.autocast(activated.device.type, enabled=False):
            return self.project(activated)[:, None].chunk(self.num, dim=-1)


class Stream(nn.Module):
    """The weights of one modality in one block.

    Args:
        width: Channels of a token.
        head_width: Channels of an attention head.
        qk_norm: Whether queries and keys are normalised.
        is_last: The text of the last block: it is only attended to, so it ends with its keys and
            values. (Its query weights exist, as in the released models, and have no effect.)
    """

    def __init__(self, width: int, head_width: int, qk_norm: bool, is_last: bool = False) -> None:
        super().__init__()
        self.head_width = head_width
        self.modulation = Modulation(width, 2 if is_last else 6)
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = QKNorm(head_width) if qk_norm else None
        if not is_last:
            self.out = nn.Linear(width, width)
            self.expand = nn.Linear(width, 4 * width)
            self.project = nn.Linear(4 * width, width)

    def project_in(self, x: Tokens, shift: Tensor, scale: Tensor) -> QKV:
        qkv = self.qkv(modulate(x, shift, scale)).unflatten(-1, (3, -1, self.head_width))
        return qkv if self.qk_norm is None else self.qk_norm(qkv)

    def finish(self, x: Tokens, attended: Tokens, modulation: tuple[Tensor, ...]) -> Tokens:
        gate, shift, scale, mlp_gate = modulation
        x = torch.addcmul(x, gate, self.out(attended).to(gate.dtype))
        hidden = nn.functional.gelu(self.expand(modulate(x, shift, scale)), approximate="tanh")
        return torch.addcmul(x, mlp_gate, self.project(hidden).to(gate.dtype))


class JointBlock(nn.Module):
    """Text and image streams, one attention over both."""

    def __init__(self, width: int, head_width: int, qk_norm: bool, is_last: bool) -> None:
        super().__init__()
        self.context = Stream(width, head_width, qk_norm, is_last)
        self.image = Stream(width, head_width, qk_norm)

    def forward(self, context: Tokens, image: Tokens, activated: Vector) -> tuple[Tokens, Tokens]:
        c, i = self.context.modulation(activated), self.image.modulation(activated)
        attended = joint_attention(
            self.context.project_in(context, *c[:2]), self.image.project_in(image, *i[:2])
        )
        if len(c) == 6:
            context = self.context.finish(context, attended[0], c[2:])
        return context, self.image.finish(image, attended[1], i[2:])
