"""One MM-DiT block: two streams of their own weights, joined in one attention (SD3, Fig. 2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.nn.attention import QKNorm, joint_attention
from rectiflow.nn.kernels import gelu, modulate, no_autocast

Tokens = Float[Tensor, "batch tokens width"]
Vector = Float[Tensor, "batch width"]


class Modulation(nn.Module):
    """The `num` vectors with which the conditioning steers a stream (adaLN-zero)."""

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.num = num
        self.project = nn.Linear(width, num * width)

    def forward(self, activated: Vector) -> tuple[Tensor, ...]:
        """Each of shape (batch, 1, width), in float32 unless the weights are stored otherwise."""
        with no_autocast(activated.device):
            return self.project(activated)[:, None].chunk(self.num, dim=-1)


class Stream(nn.Module):
    """The weights of one modality in one block.

    Args:
        width: Channels of a token.
        head_width: Channels of an attention head.
        qk_norm: Whether queries and keys are normalised.
        is_last: The text of the last block: it is only attended to, so it ends with its keys and
            values. Its query weights exist, as in the released models, and have no effect.
    """

    def __init__(self, width: int, head_width: int, qk_norm: bool, is_last: bool = False) -> None:
        super().__init__()
        self.head_width = head_width
        self.is_last = is_last
        self.modulation = Modulation(width, 2 if is_last else 6)
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = QKNorm(head_width) if qk_norm else None
        if not is_last:
            self.out = nn.Linear(width, width)
            self.expand = nn.Linear(width, 4 * width)
            self.project = nn.Linear(4 * width, width)

    @property
    def qk_scale(self) -> Tensor | None:
        """Scales of normalised queries and keys; None where they are not normalised."""
        return None if self.qk_norm is None else self.qk_norm.scale

    def project_in(
        self, x: Tokens, shift: Tensor, scale: Tensor
    ) -> Float[Tensor, "batch tokens parts heads head_width"]:
        """What the joint attention takes from this stream; queries only if it attends."""
        weight, bias, width = self.qkv.weight, self.qkv.bias, x.shape[-1]
        if self.is_last:
            weight, bias = weight[width:], bias[width:]
        projected = nn.functional.linear(modulate(x, shift, scale), weight, bias)
        return projected.view(*x.shape[:2], -1, width // self.head_width, self.head_width)

    def finish(self, x: Tokens, attended: Tokens, modulation: tuple[Tensor, ...]) -> Tokens:
        """Add what attention brought, then what the perceptron makes of it."""
        gate, shift, scale, mlp_gate = modulation
        x = torch.addcmul(x, gate, self.out(attended).to(x.dtype))
        hidden = gelu(self.expand(modulate(x, shift, scale)))
        return torch.addcmul(x, mlp_gate, self.project(hidden).to(x.dtype))


class JointBlock(nn.Module):
    """Text and image streams, one attention over both."""

    def __init__(self, width: int, head_width: int, qk_norm: bool, is_last: bool) -> None:
        super().__init__()
        self.context = Stream(width, head_width, qk_norm, is_last)
        self.image = Stream(width, head_width, qk_norm)

    def forward(
        self,
        context: Float[Tensor, "batch texts width"],
        image: Float[Tensor, "batch pixels width"],
        activated: Vector,
    ) -> tuple[Float[Tensor, "batch texts width"], Float[Tensor, "batch pixels width"]]:
        """Tokens of both streams after the block; in the last one the text is returned unchanged.

        `activated` is SiLU of the modulation vector, the same for every block.
        """
        c, i = self.context.modulation(activated), self.image.modulation(activated)
        texts, pixels = joint_attention(
            self.context.project_in(context, *c[:2]),
            self.image.project_in(image, *i[:2]),
            self.context.qk_scale,
            self.image.qk_scale,
        )
        if texts is not None:
            context = self.context.finish(context, texts, c[2:])
        return context, self.image.finish(image, pixels, i[2:])
