"""Joint attention of several token sequences, each projected with its own weights.

A stream hands over its projections as one tensor, (batch, tokens, parts, heads, head_width); the
parts are queries, keys and values, or keys and values of a stream that is only attended to.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rectiflow.nn.kernels import (
    inverse_root_mean_square,
    is_on_plain_cpu,
    runs_of_samples,
    wide,
)

NORM_EPS = 1e-6  # of the RMS norm of queries and keys, as in the released models
MAX_TOKENS_AS_PRODUCTS = 1024  # up to here plain products beat torch's attention in bf16 on CPU


class QKNorm(nn.Module):
    """RMS norm of every head of the queries and of the keys, with a learnable scale per channel.

    Keeps attention logits bounded in mixed precision (SD3, App. C.2). Row 0 of `scale` belongs to
    the queries, row 1 to the keys. Only the scales live here; `joint_attention` applies them.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(2, head_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scales 1."""
        nn.init.ones_(self.scale)


def joint_attention(
    projections: Sequence[Float[Tensor, "batch _ _ heads head_width"]],
    scales: Sequence[Float[Tensor, "2 head_width"] | None],
) -> list[Float[Tensor, "batch _ width"] | None]:
    """Every token attends to all tokens of all sequences (SD3, Fig. 2).

    Args:
        projections: One tensor per stream; without queries, a stream is attended to but does not
            attend. One stream alone is self-attention.
        scales: Per stream the scales of its QK norm; None for no normalisation.

    Returns:
        Attended tokens of every stream, heads side by side; None for one that does not attend.
    """
    q, k, v = join_heads(projections, scales)
    out = attention(q, k, v).transpose(1, 2)
    lengths = [x.shape[1] if x.shape[2] == 3 else 0 for x in projections]
    pieces = zip(projections, out.split(lengths, dim=1), strict=True)
    return [piece.flatten(2) if x.shape[2] == 3 else None for x, piece in pieces]


def join_heads(
    projections: Sequence[Tensor], scales: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all streams, one stream after the other.

    Queries and keys are first RMS-normalised per head in float32 and multiplied by their scale.
    Arguments as in `joint_attention`; each result is (batch, heads, tokens, head_width).
    """
    if not is_on_plain_cpu(projections[0]):
        return plain_join_heads(projections, scales)
    return _JoinHeads.apply(*projections, *scales)  # pyright: ignore


def plain_join_heads(
    projections: Sequence[Tensor], scales: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The mathematics of `join_heads`."""
    joined: list[list[Tensor]] = [[], [], []]
    for x, scale in zip(projections, scales, strict=True):
        *attending, v = x.unbind(2)
        if scale is not None:
            rows = scale[-len(attending) :]
            attending = [
                nn.functional.rms_norm(wide(y), y.shape[-1:], wide(row), NORM_EPS).to(x.dtype)
                for y, row in zip(attending, rows, strict=True)
            ]
        parts = [*attending, v]
        for sequence, part in zip(joined[3 - len(parts) :], parts, strict=True):
            sequence.append(part)
    q, k, v = (torch.cat(sequence, dim=1).transpose(1, 2) for sequence in joined)
    return q, k, v


class _JoinHeads(torch.autograd.Function):
    """Takes the projections of the streams, then their scales."""

    @staticmethod
    def forward(ctx, *inputs):
        projections = inputs[: len(inputs) // 2]
        joined = []
        for part in range(3):
            length = sum(x.shape[1] for x in projections if part >= 3 - x.shape[2])
            batch, _, _, heads, width = projections[0].shape
            joined.append(projections[0].new_empty(batch, heads, length, width))
        inverses = []
        for x, scale, places in _streams(inputs, joined):
            if scale is not None:
                inverses.append(_normalize(places, x, scale))
                places, x = places[-1:], x[:, :, -1:]
            for place, part in zip(places, x.unbind(2), strict=True):
                place.copy_(part)
        ctx.num_inputs = len(inputs)
        ctx.save_for_backward(*inputs, *inverses)
        return tuple(joined)

    @staticmethod
    @once_differentiable
    def backward(ctx, *joined):  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors  # once: where it was forgotten, it is computed again
        inputs, inverses = saved[: ctx.num_inputs], list(saved[ctx.num_inputs :])
        grads, scale_grads = [], []
        for x, scale, pieces in _streams(inputs, joined):
            grad, scale_grad = torch.empty_like(x), None
            places = grad
            if scale is not None:
                scale_grad = _normalize_backward(grad, pieces, x, inverses.pop(0), scale)
                places, pieces = grad[:, :, -1:], pieces[-1:]
            for place, piece in zip(places.unbind(2), pieces, strict=True):
                place.copy_(piece)
            grads.append(grad)
            scale_grads.append(scale_grad)
        return *grads, *scale_grads


def _streams(inputs, joined):
    """Per stream: its projections, its scale, and its places in the joined tensors, one per part.

    A place has the layout of a part: (batch, tokens, heads, head_width).
    """
    projections, scales = inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
    views = [x.transpose(1, 2) for x in joined]
    starts = [0, 0, 0]
    for x, scale in zip(projections, scales, strict=True):
        places = []
        for part in range(3 - x.shape[2], 3):
            places.append(views[part].narrow(1, starts[part], x.shape[1]))
            starts[part] += x.shape[1]
        yield x, scale, places


def _normalize(places: list[Tensor], x: Tensor, scale: Tensor) -> Tensor:
    """Normalise all parts of `x` but the values into their places; returns the inverse roots."""
    weight, inverses = _per_head(scale, x), []
    for rows in runs_of_samples(x):
        part = wide(x[rows])[:, :, :-1]
        inverses.append(inverse_root_mean_square(part, NORM_EPS))
        normed = (part * inverses[-1]).mul_(weight)
        for i in range(x.shape[2] - 1):
            places[i][rows] = normed[:, :, i]
    return torch.cat(inverses)


def _normalize_backward(
    grad: Tensor, pieces: list[Tensor], x: Tensor, inverses: Tensor, scale: Tensor
) -> Tensor:
    """Fill the gradient of `x`, but for the values, from those of its places; that of the scale."""
    weight = _per_head(scale, x)
    weight_grad = torch.zeros_like(weight)
    for rows in runs_of_samples(x):
        inverse = inverses[rows]
        normed = wide(x[rows])[:, :, :-1] * inverse
        g = torch.empty_like(normed)
        for i in range(x.shape[2] - 1):
            g[:, :, i] = pieces[i][rows]
        along = g * normed
        weight_grad += along.sum((0, 1))
        projection = along.mul_(weight).mean(-1, keepdim=True)
        grad[rows, :, :-1] = g.mul_(weight).addcmul_(normed, projection, value=-1).mul_(inverse)
    scale_grad = torch.zeros_like(scale)
    scale_grad[1 - x.shape[2] :] = weight_grad.sum(1)
    return scale_grad


def _per_head(scale: Tensor, x: Tensor) -> Tensor:
    """Scales of the parts of `x` but the values, repeated per head: long rows multiply faster."""
    _, _, parts, heads, width = x.shape
    return wide(scale[1 - parts :, None]).expand(parts - 1, heads, width).contiguous()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_width)) v over (batch, heads, tokens, head_width).

    Torch's own, but for short sequences in bf16 on CPU: there its backward pass takes three to
    five times as long as the matrix products it consists of. Done as products, logits and their
    gradients are rounded to bf16, which torch's attention keeps in float32.
    """
    is_slow_in_torch = k.device.type == "cpu" and k.dtype == torch.bfloat16
    if not is_slow_in_torch or k.shape[2] > MAX_TOKENS_AS_PRODUCTS:
        return nn.functional.scaled_dot_product_attention(q, k, v)
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    if torch.compiler.is_exporting():
        return plain_attention(q, k, v)
    if torch.compiler.is_compiling():
        return short_attention(*flat)[0].view(q.shape)
    return _Attention.apply(*flat).view(q.shape)  # pyright: ignore


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The mathematics of `attention`, its logits rounded to the type of `q`."""
    logits = wide(q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return torch.softmax(logits, dim=-1).to(v.dtype) @ v


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        out, share = _attend(q, k, v)
        ctx.save_for_backward(q, k, v, share)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _attend_backward(grad, *ctx.saved_tensors)


@torch.library.custom_op("rectiflow::short_attention", mutates_args=())
def short_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What a compiler takes as it is, for it makes slower softmaxes; heads beside samples.

    Returns:
        What attention brings, and the share of each key, padded.
    """
    return _attend(q, k, v)


@torch.library.custom_op("rectiflow::short_attention_backward", mutates_args=())
def short_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    return _attend_backward(grad, q, k, v, share)


@short_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(*q.shape[:2], _padded_length(k))


@short_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep_share(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1])


short_attention.register_autograd(
    lambda ctx, grad, _: short_attention_backward(grad, *ctx.saved_tensors),
    setup_context=_keep_share,
)

ROW = 32  # numbers in bf16 of a register: torch's softmax of rows of whole ones is twice as fast
LOGITS = 2**21  # at a time: with their gradients they stay in the cache


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    num_keys, k, v = k.shape[1], _padded(k), _padded(v)
    out, share = q.new_empty(q.shape), q.new_empty(*q.shape[:2], k.shape[1])
    for heads in runs_of_samples(share, LOGITS):
        logits = _scaled_product(q[heads], k[heads].transpose(1, 2), q.shape[-1])
        logits[..., num_keys:] = -math.inf
        torch.softmax(logits, dim=-1, out=share[heads])
        torch.bmm(share[heads], v[heads], out=out[heads])
    return out, share


def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    num_keys, k, v = k.shape[1], _padded(k), _padded(v)
    grads = q.new_empty(q.shape), torch.empty_like(k), torch.empty_like(v)
    for heads in runs_of_samples(share, LOGITS):
        grad_q, grad_k, grad_v = (each[heads] for each in grads)
        grad_share = grad[heads] @ v[heads].transpose(1, 2)
        grad_logits = torch.ops.aten._softmax_backward_data(
            grad_share, share[heads], -1, share.dtype
        )
        _scaled_product(grad_logits, k[heads], q.shape[-1], grad_q)
        _scaled_product(grad_logits.transpose(1, 2), q[heads], q.shape[-1], grad_k)
        torch.bmm(share[heads].transpose(1, 2), grad[heads], out=grad_v)
    grad_q, grad_k, grad_v = grads
    return grad_q, grad_k[:, :num_keys].contiguous(), grad_v[:, :num_keys].contiguous()


def _padded_length(x: Tensor) -> int:
    num, more = x.shape[1], -x.shape[1] % ROW
    return num + more if more * ROW <= 2 * num else num  # of few keys it would be too many


def _padded(x: Tensor) -> Tensor:
    """Keys or values of heads, their number filled up with zeros."""
    more = _padded_length(x) - x.shape[1]
    return nn.functional.pad(x, (0, 0, 0, more)) if more else x.contiguous()


def _scaled_product(a: Tensor, b: Tensor, head_width: int, out: Tensor | None = None) -> Tensor:
    """A batch of products a b / sqrt(head_width), the factor applied inside the product."""
    unused = a.new_empty(())  # beta = 0: never read
    return torch.baddbmm(unused, a, b, beta=0, alpha=head_width**-0.5, out=out)
