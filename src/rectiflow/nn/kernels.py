"""Operations between the matrix products, and the float32 islands among them.

Where the plain form wastes time on a CPU there is one for the CPU with its derivative written out.
Other devices use the plain form, and so does whatever is being compiled, since a compiler fuses it,
but for short attention and `LinearOfFew`, which it takes as they are. The tests hold one against
the other.
The form for the CPU works through a few samples at a time, so that float32 intermediates stay in
the cache. With that of `attention`, it takes a step (forward and backward; d4, batch 64, 64 image
and 32 text tokens, bf16 autocast, one AVX-512 core) from 0.77 to 0.52 s; products are 0.29 s of it.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNK = 2**18  # elements worked on at a time on CPU: 1 MB in float32


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Switches autocast off on a device: an island of the weights' own precision."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def is_on_plain_cpu(x: Tensor) -> bool:
    """Whether the forms for the CPU are of use: there, and not under a compiler."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def wide(x: Tensor) -> Tensor:
    """The same numbers in float32, or float64 if they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def runs_of_samples(x: Tensor, chunk: int = CHUNK) -> list[slice]:
    """Consecutive samples, about `chunk` elements of `x` in each run."""
    run = max(1, chunk // max(1, x[0].numel()))
    return [slice(i, i + run) for i in range(0, len(x), run)]


def inverse_root_mean_square(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) along the last dimension, which is kept."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm of the tokens `x` without weights; `eps` is added to the variance."""
    return nn.functional.layer_norm(x, x.shape[-1:], eps=eps)


def steer(normed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised tokens times 1 + scale, plus shift; in float32 if they are.

    Args:
        normed: Shape (batch, tokens, width).
        shift: Shape (batch, 1, width).
        scale: Shape (batch, 1, width).
    """
    return torch.addcmul(shift, normed, 1 + scale)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`steer` of the layer norm of `x`."""
    return steer(layer_norm(x), shift, scale)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form, which is x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).

    On CPU torch's own takes as long as a matrix product of the perceptron, in each direction.
    """
    return _Gelu.apply(x) if is_on_plain_cpu(x) else plain_gelu(x)  # pyright: ignore


def plain_gelu(x: Tensor) -> Tensor:
    """The mathematics of `gelu`."""
    return nn.functional.gelu(x, approximate="tanh")


_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


class _Gelu(torch.autograd.Function):
    """Keeps the slope rather than the input, since the gate is at hand in the forward pass."""

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        value, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        linear = torch.tensor(_LINEAR, dtype=torch.promote_types(x.dtype, torch.float32))
        pieces = [(x if y is None else y).view(-1).split(CHUNK) for y in (x, value, slope)]
        for source, to_value, to_slope in zip(*pieces, strict=True):
            a = wide(source)
            slant = torch.add(linear, a * a, alpha=_CUBIC)  # of the sigmoid's argument, over x
            gate = (slant * a).sigmoid_()
            product = a * gate
            to_value.copy_(product)
            if slope is not None:  # gate + x gate (1 - gate) d(argument)/dx
                derivative = torch.add(-2 * linear, slant, alpha=3)
                product.addcmul_(product, gate, value=-1)
                to_slope.copy_(gate.addcmul_(product, derivative))
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        return grad * slope


class LinearOfFew(nn.Linear):
    """A linear layer for a few vectors, whose time is that of reading the weight.

    On CPU torch's own reads it at a third of the memory's speed in the forward pass, and at half in
    the backward pass; with the weight on the left, and in runs of rows, both are at full speed.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Of vectors (batch, in_features)."""
        is_here = input.device.type == "cpu" and not torch.compiler.is_exporting()
        if len(input) > MAX_FEW or not is_here:
            return super().forward(input)
        form = linear_of_few if torch.compiler.is_compiling() else _LinearOfFew.apply
        return form(input, self.weight, self.bias)  # pyright: ignore


MAX_FEW = 8
_RUNS = 8  # of the weight's rows in the backward pass


class _LinearOfFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _few(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _few_backward(grad, *ctx.saved_tensors)


@torch.library.custom_op("rectiflow::linear_of_few", mutates_args=())
def linear_of_few(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a compiler takes as it is."""
    return _few(x, weight, bias)


@torch.library.custom_op("rectiflow::linear_of_few_backward", mutates_args=())
def linear_of_few_backward(
    grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the vectors, the weight and the bias."""
    return _few_backward(grad, x, weight)


@linear_of_few.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight))


@linear_of_few_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), grad.new_empty(len(weight))


linear_of_few.register_autograd(
    lambda ctx, grad: linear_of_few_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),
)


def _few(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias[:, None], weight, x.t()).t().contiguous()


def _few_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    num = math.gcd(len(weight), _RUNS)
    runs = grad.unflatten(1, (num, -1)).transpose(0, 1)  # (num, batch, rows of a run)
    x_grad = torch.bmm(runs, weight.unflatten(0, (num, -1))).sum(0)
    return x_grad, grad.t() @ x, grad.sum(0)
