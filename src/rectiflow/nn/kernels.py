"""Operations of the block whose plain form wastes time, with derivatives written out.

Each is the mathematics its docstring states, no less exact, in fewer passes over memory; the tests
hold values and derivatives against the plain form. Measured on one core with AVX-512 (d4, batch
64, 64 image and 32 text tokens, bf16 autocast), they take a training step from 0.69 to SECONDS s.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MAX_TOKENS_AS_PRODUCTS = 1024  # up to here plain products beat torch's attention in bf16 on CPU


def join_heads(
    context: Tensor,
    image: Tensor,
    context_scale: Tensor | None,
    image_scale: Tensor | None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of two streams, one sequence each, text before image.

    Queries and keys are RMS-normalised per head, in float32, and multiplied by their scale.

    Args:
        context: Text projections, shape (batch, tokens, parts, heads, head_width); the parts are
            queries, keys, values, or keys, values for a stream that is only attended to.
        image: Image projections, three parts.
        context_scale: Scales of the text's queries and keys, shape (2, head_width); None for no
            normalisation.
        image_scale: The same for the image.
        eps: Added to the mean square.

    Returns:
        Queries, keys, values, each of shape (batch, heads, tokens, head_width), contiguous.
    """
    return _JoinHeads.apply(context, image, context_scale, image_scale, eps)  # pyright: ignore


class _JoinHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, context, image, context_scale, image_scale, eps):
        scales, inverses, joined = (context_scale, image_scale), [], []
        for part in (-3, -2, -1):
            streams = [i for i, x in enumerate((context, image)) if x.shape[2] >= -part]
            sources = [(context, image)[i][:, :, part] for i in streams]
            batch, _, heads, width = image[:, :, part].shape
            out = image.new_empty(batch, heads, sum(x.shape[1] for x in sources), width)
            places = out.transpose(1, 2).split([x.shape[1] for x in sources], dim=1)
            for i, source, place in zip(streams, sources, places, strict=True):
                if part == -1 or scales[i] is None:
                    place.copy_(source)
                    continue
                normed, inverse = _normalize(source, eps)
                place.copy_(normed.mul_(scales[i][part + 3]))
                inverses.append(inverse)
            joined.append(out)
        ctx.save_for_backward(context, image, context_scale, image_scale, *inverses)
        return tuple(joined)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        context, image, *scales = ctx.saved_tensors[:4]
        inverses = list(ctx.saved_tensors[4:])
        out = [torch.empty_like(context), torch.empty_like(image)]
        scale_grads = [None if scale is None else torch.zeros_like(scale) for scale in scales]
        for part, grad in zip((-3, -2, -1), grads, strict=True):
            streams = [i for i, x in enumerate(out) if x.shape[2] >= -part]
            pieces = grad.transpose(1, 2).split([out[i].shape[1] for i in streams], dim=1)
            for i, piece in zip(streams, pieces, strict=True):
                place = out[i][:, :, part]
                if part == -1 or scales[i] is None:
                    place.copy_(piece)
                    continue
                source, scale = (context, image)[i][:, :, part], scales[i][part + 3]
                grad_source, scale_grads[i][part + 3] = _normalize_backward(
                    piece, source, inverses.pop(0), scale
                )
                place.copy_(grad_source)
        return *out, *scale_grads, None


def _normalize(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x` over its root mean square along the last dimension, and the inverse root; float32."""
    x = x.float()
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return x * inverse, inverse


def _normalize_backward(
    grad: Tensor, x: Tensor, inverse: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `_normalize(x) * scale` for x and for the scale."""
    grad, normed = grad.float(), x.float() * inverse
    along = grad * normed
    grad_scale = along.sum((0, 1, 2))
    projection = along.mul_(scale).mean(-1, keepdim=True)
    return torch.addcmul(grad * scale, normed, projection, value=-1).mul_(inverse), grad_scale


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_width)) v over (batch, heads, tokens, head_width).

    Torch's own, but for short sequences in bf16 on CPU: there its backward pass takes three to
    five times as long as the matrix products it consists of.
    """
    is_slow_in_torch = k.device.type == "cpu" and k.dtype == torch.bfloat16
    if is_slow_in_torch and k.shape[2] <= MAX_TOKENS_AS_PRODUCTS:
        out = _Attention.apply(*(x.flatten(0, 1) for x in (q, k, v)))
        return out.view(q.shape)  # pyright: ignore
    return nn.functional.scaled_dot_product_attention(q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        share = torch.softmax(_scaled_product(q, k.transpose(1, 2), q.shape[-1]), dim=-1)
        ctx.save_for_backward(q, k, v, share)
        return share @ v

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, share = ctx.saved_tensors
        grad_share = grad @ v.transpose(1, 2)
        grad_logits = torch._softmax_backward_data(grad_share, share, -1, share.dtype)
        grad_q = _scaled_product(grad_logits, k, q.shape[-1])
        grad_k = _scaled_product(grad_logits.transpose(1, 2), q, q.shape[-1])
        return grad_q, grad_k, share.transpose(1, 2) @ grad


def _scaled_product(a: Tensor, b: Tensor, head_width: int) -> Tensor:
    """A batch of products a b / sqrt(head_width), the factor applied inside the product."""
    unused = a.new_empty(())  # beta = 0: never read
    return torch.baddbmm(unused, a, b, beta=0, alpha=head_width**-0.5)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).

    On CPU torch's own takes as long as a matrix product of the perceptron in each direction.
    """
    if x.device.type == "cpu":
        return _Gelu.apply(x)  # pyright: ignore
    return nn.functional.gelu(x, approximate="tanh")


_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR
_CHUNK = 2**17  # elements worked on at a time: their float32 intermediates stay in the cache


class _Gelu(torch.autograd.Function):
    """Keeps the slope rather than the input, since the gate is at hand in the forward pass."""

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        value, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        pieces = [(x if y is None else y).view(-1).split(_CHUNK) for y in (x, value, slope)]
        for source, to_value, to_slope in zip(*pieces, strict=True):
            a = source.to(torch.promote_types(x.dtype, torch.float32), copy=True)
            square = a.square()
            gate = square.mul(_CUBIC).add_(_LINEAR).mul_(a).sigmoid_()
            to_value.copy_(a.mul_(gate))
            if slope is not None:  # gate + x gate (1 - gate) (linear + 3 cubic x^2)
                inner = square.mul_(3 * _CUBIC).add_(_LINEAR).mul_(a)
                to_slope.copy_(gate.addcmul_(inner, 1 - gate))
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return grad * slope
