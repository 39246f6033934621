"""One MM-DiT block: streams of their own weights, joined in one attention (SD3, Fig. 2).

There is one stream of image tokens and one or two of text. In SD3.5 Medium (MMDiT-X) the image
tokens of some blocks also attend to themselves alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.nn.attention import QKNorm, joint_attention
from rectiflow.nn.kernels import LinearOfFew, gelu, layer_norm, modulate, no_autocast, steer

Tokens = Float[Tensor, "batch tokens width"]
Vector = Float[Tensor, "batch width"]
Projections = Float[Tensor, "batch tokens parts heads head_width"]


class Modulation(nn.Module):
    """The `num` vectors with which the conditioning steers a stream (adaLN-zero)."""

    def __init__(self, width: int, num: int) -> None:
        super().__init__()
        self.num = num
        self.project = LinearOfFew(width, num * width)

    def forward(self, activated: Vector) -> tuple[Tensor, ...]:
        """Each of shape (batch, 1, width), in float32 unless the weights are stored otherwise."""
        with no_autocast(activated.device):
            return self.project(activated)[:, None].chunk(self.num, dim=-1)


class Stream(nn.Module):
    """The weights of one modality in one block.

    Its modulation holds shift, scale and gate of the joint attention, then those of the perceptron,
    then those of the attention of the stream to itself, as in the released files.

    Args:
        width: Channels of a token.
        head_width: Channels of an attention head.
        qk_norm: Whether queries and keys are normalised.
        is_last: The text of the last block: it is only attended to, so it ends with its keys and
            values. Its query weights exist, as in the released models, and have no effect.
        is_dual: Whether the tokens also attend to those of their own stream alone, with weights of
            their own (`qkv2`, `qk_norm2`, `out2`; SD3.5 Medium).
    """

    def __init__(
        self,
        width: int,
        head_width: int,
        qk_norm: bool,
        *,
        is_last: bool = False,
        is_dual: bool = False,
    ) -> None:
        super().__init__()
        self.head_width = head_width
        self.is_last = is_last
        self.is_dual = is_dual
        self.modulation = Modulation(width, 2 if is_last else 9 if is_dual else 6)
        self.qkv = nn.Linear(width, 3 * width)
        self.qk_norm = QKNorm(head_width) if qk_norm else None
        if not is_last:
            self.out = nn.Linear(width, width)
            self.expand = nn.Linear(width, 4 * width)
            self.project = nn.Linear(4 * width, width)
        if is_dual:
            self.qkv2 = nn.Linear(width, 3 * width)
            self.qk_norm2 = QKNorm(head_width) if qk_norm else None
            self.out2 = nn.Linear(width, width)

    @property
    def qk_scale(self) -> Tensor | None:
        """Scales of normalised queries and keys; None where they are not normalised."""
        return None if self.qk_norm is None else self.qk_norm.scale

    def project_in(self, normed: Tokens, shift: Tensor, scale: Tensor) -> Projections:
        """What the joint attention takes from this stream; queries only if it attends."""
        steered = steer(normed, shift, scale)
        if not self.is_last:
            return self._heads(self.qkv(steered))
        weight, bias, width = self.qkv.weight, self.qkv.bias, normed.shape[-1]
        return self._heads(nn.functional.linear(steered, weight[width:], bias[width:]))

    def finish(
        self, x: Tokens, normed: Tokens, attended: Tokens, modulation: tuple[Tensor, ...]
    ) -> Tokens:
        """Add what the attentions brought, then what the perceptron makes of it.

        Args:
            x: Tokens before the block.
            normed: Their layer norm, from which both attentions begin.
            attended: What the joint attention brought.
            modulation: All vectors of this stream.
        """
        gate, shift, scale, mlp_gate = modulation[2:6]
        x = torch.addcmul(x, gate, self.out(attended).to(x.dtype))
        if self.is_dual:
            shift2, scale2, gate2 = modulation[6:]
            own = self._attend_to_itself(normed, shift2, scale2)
            x = torch.addcmul(x, gate2, own.to(x.dtype))
        hidden = gelu(self.expand(modulate(x, shift, scale)))
        return torch.addcmul(x, mlp_gate, self.project(hidden).to(x.dtype))

    def _attend_to_itself(self, normed: Tokens, shift: Tensor, scale: Tensor) -> Tokens:
        qk_scale = None if self.qk_norm2 is None else self.qk_norm2.scale
        projected = self._heads(self.qkv2(steer(normed, shift, scale)))
        (attended,) = joint_attention([projected], [qk_scale])
        return self.out2(attended)

    def _heads(self, projected: Tokens) -> Projections:
        width = self.qkv.in_features
        parts, heads = projected.shape[-1] // width, width // self.head_width
        return projected.unflatten(-1, (parts, heads, self.head_width))


class JointBlock(nn.Module):
    """Streams of text and image, one attention over all of them.

    Args:
        width: Channels of a token.
        head_width: Channels of an attention head.
        qk_norm: Whether queries and keys are normalised.
        is_last: Whether the text is only attended to.
        is_dual: Whether the image also attends to itself alone.
        num_weight_sets: 2 for one set of weights for all text, 3 for another set for T5 tokens.
    """

    def __init__(
        self,
        width: int,
        head_width: int,
        qk_norm: bool,
        *,
        is_last: bool = False,
        is_dual: bool = False,
        num_weight_sets: int = 2,
    ) -> None:
        super().__init__()
        self.context = Stream(width, head_width, qk_norm, is_last=is_last)
        has_t5 = num_weight_sets == 3
        self.t5 = Stream(width, head_width, qk_norm, is_last=is_last) if has_t5 else None
        self.image = Stream(width, head_width, qk_norm, is_dual=is_dual)

    @property
    def streams(self) -> list[Stream]:
        """Text first, the image last."""
        return [stream for stream in (self.context, self.t5, self.image) if stream is not None]

    def forward(
        self, tokens: Sequence[Float[Tensor, "batch _ width"]], activated: Vector
    ) -> list[Float[Tensor, "batch _ width"]]:
        """Tokens of every stream after the block; in the last one the text is returned unchanged.

        Args:
            tokens: One sequence per stream, in the order of `streams`.
            activated: SiLU of the modulation vector, the same for every block.
        """
        streams = self.streams
        vectors = [stream.modulation(activated) for stream in streams]
        normed = [layer_norm(x) for x in tokens]
        attended = joint_attention(
            [s.project_in(y, *v[:2]) for s, y, v in zip(streams, normed, vectors, strict=True)],
            [stream.qk_scale for stream in streams],
        )
        return [
            x if z is None else stream.finish(x, y, z, v)
            for stream, x, y, z, v in zip(streams, tokens, normed, attended, vectors, strict=True)
        ]
