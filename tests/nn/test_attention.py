"""Joint attention against a plain reference, in values, gradients and rounding."""

import pytest
import torch
from torch import Tensor, nn

from rectiflow.nn import kernels
from rectiflow.nn.attention import (
    _Attention,
    attention,
    join_heads,
    joint_attention,
    plain_join_heads,
    short_attention,
    short_attention_backward,
)

# Parts of every stream: text that attends, text that is only attended to, three weight sets, alone.
STREAMS = {
    "text and image": (3, 3),
    "last text and image": (2, 3),
    "two texts and image": (3, 3, 3),
    "two last texts and image": (2, 2, 3),
    "image alone": (3,),
}
LENGTHS = (4, 2, 5)  # CLIP, T5 and image tokens
every_case = pytest.mark.parametrize("parts", STREAMS.values(), ids=STREAMS)


def streams(parts: tuple[int, ...], batch: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    """Projections and scales of every stream, in float64; the last has the image's length."""
    generator = torch.Generator().manual_seed(0)
    lengths = (*LENGTHS[: len(parts) - 1], LENGTHS[-1])
    shapes = [(batch, n, num, 2, 8) for n, num in zip(lengths, parts, strict=True)]
    made = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in [*shapes, *((2, 8) for _ in parts)]
    ]
    return made[: len(parts)], made[len(parts) :]


def reference(projections, scales):
    """Softmax attention over the joined tokens, one step at a time."""

    def normed(x, scale, row):
        if scale is None:
            return x
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale[row]

    q, k, v = [], [], []
    for x, scale in zip(projections, scales, strict=True):
        if x.shape[2] == 3:
            q.append(normed(x[:, :, 0], scale, 0))
        k.append(normed(x[:, :, -2], scale, 1))
        v.append(x[:, :, -1])
    k, v = torch.cat(k, dim=1), torch.cat(v, dim=1)
    logits = torch.einsum("bqhw,bkhw->bhqk", torch.cat(q, dim=1), k) / k.shape[-1] ** 0.5
    return torch.einsum("bhqk,bkhw->bqhw", logits.softmax(-1), v).flatten(2)


@pytest.mark.parametrize("has_norm", [True, False])
@every_case
def test_joint_attention_equals_a_reference(parts, has_norm):
    projections, scales = streams(parts)
    scales = scales if has_norm else [None] * len(parts)
    attended = joint_attention(projections, scales)
    assert [x is None for x in attended] == [num == 2 for num in parts]
    together = torch.cat([x for x in attended if x is not None], dim=1)
    torch.testing.assert_close(together, reference(projections, scales))


@pytest.mark.parametrize("has_norm", [True, False])
@every_case
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_joined_heads_and_their_gradients_equal_the_plain_form(parts, has_norm, chunk, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    projections, scales = streams(parts)
    leaves = [*projections, *scales] if has_norm else projections
    scales = scales if has_norm else [None] * len(parts)
    results = {}
    for form in (join_heads, plain_join_heads):
        out = form(projections, scales)
        weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) for x in out]
        loss = sum((x * w).sum() for x, w in zip(out, weights, strict=True))
        results[form] = [*out, *torch.autograd.grad(loss, leaves)]
    for ours, plain in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, plain)


def test_normalised_queries_have_unit_mean_square_before_their_scale():
    (context, image), _ = streams((3, 3))
    ones = torch.ones(2, 8, dtype=torch.float64)
    q, k, v = join_heads([1000 * context, image], [ones, ones])
    for x in (q, k):
        torch.testing.assert_close(
            x.square().mean(-1), torch.ones(x.shape[:-1], dtype=x.dtype), rtol=1e-3, atol=1e-4
        )
    assert v.square().mean() > 1e5  # the values are not normalised


def error_of(form, inputs, exact) -> float:
    """Largest error of the output and the three gradients, each relative to its largest entry."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = form(*leaves)
    grads = torch.autograd.grad(out, leaves, torch.ones_like(out))
    pairs = zip((out, *grads), exact, strict=True)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("num_queries", [40, 25])
def test_products_in_bf16_err_by_bf16_roundings_only(num_queries):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(2, 3, n, 16, generator=generator).bfloat16() for n in (num_queries, 62, 62)
    ]
    leaves = [x.double().requires_grad_() for x in inputs]
    out = nn.functional.scaled_dot_product_attention(*leaves)
    exact = (out, *torch.autograd.grad(out, leaves, torch.ones_like(out)))
    ours = error_of(attention, inputs, exact)
    torchs = error_of(nn.functional.scaled_dot_product_attention, inputs, exact)
    assert ours < 0.015
    assert ours < 4 * torchs  # which keeps logits in float32


@pytest.mark.parametrize(("logits", "num_keys"), [(1, 5), (2**21, 5), (1, 31), (2**21, 31)])
def test_gradients_of_the_products_are_exact_in_float64(logits, num_keys, monkeypatch):
    monkeypatch.setattr("rectiflow.nn.attention.LOGITS", logits)  # one head at a time, or all
    q, k, v = torch.randn(
        3, 2, num_keys, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).unbind()
    leaves = [x.requires_grad_() for x in (q[:, :3].clone(), k.clone(), v.clone())]
    assert torch.autograd.gradcheck(_Attention.apply, leaves)


def test_what_a_compiler_is_told_of_attention_is_true():
    q, grad, k, v = torch.randn(2, 2, 5, 4).unbind() + torch.randn(2, 2, 4, 31).mT.unbind()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    leaves = tuple(x.clone().requires_grad_() for x in (q, k, v))
    torch.library.opcheck(short_attention, leaves, test_utils=tests)
    inputs = (grad, q, k, v, torch.rand(2, 5, 32))
    torch.library.opcheck(short_attention_backward, inputs, test_utils=tests)
