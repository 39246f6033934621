"""Joint attention against a plain reference, in values, gradients and rounding."""

import pytest
import torch
from torch import nn

from rectiflow.nn import kernels
from rectiflow.nn.attention import (
    _Attention,
    attention,
    join_heads,
    joint_attention,
    plain_join_heads,
)


def streams(parts: int, dtype=torch.float64, batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, 4, parts, 2, 8), (batch, 5, 3, 2, 8), (2, 8), (2, 8)]
    made = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype).requires_grad_() for x in made]


def reference(context, image, context_scale, image_scale):
    """Softmax attention over the joined tokens, one step at a time."""

    def normed(x, scale, row):
        if scale is None:
            return x
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale[row]

    context, image = list(context.unbind(2)), list(image.unbind(2))
    q = [normed(image[0], image_scale, 0)]
    if len(context) == 3:
        q.insert(0, normed(context.pop(0), context_scale, 0))
    k = torch.cat([normed(context[0], context_scale, 1), normed(image[1], image_scale, 1)], dim=1)
    v = torch.cat([context[1], image[2]], dim=1)
    logits = torch.einsum("bqhw,bkhw->bhqk", torch.cat(q, dim=1), k) / k.shape[-1] ** 0.5
    return torch.einsum("bhqk,bkhw->bqhw", logits.softmax(-1), v).flatten(2)


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("parts", [2, 3])
def test_joint_attention_equals_a_reference(parts, has_norm):
    context, image, *scales = streams(parts)
    scales = scales if has_norm else [None, None]
    texts, pixels = joint_attention(context, image, *scales)
    expected = reference(context, image, *scales)
    torch.testing.assert_close(pixels, expected[:, -5:])
    if parts == 3:
        torch.testing.assert_close(texts, expected[:, :4])
    else:
        assert texts is None


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_joined_heads_and_their_gradients_equal_the_plain_form(parts, has_norm, chunk, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    inputs = streams(parts)
    scales = inputs[2:] if has_norm else [None, None]
    leaves = inputs if has_norm else inputs[:2]
    results = {}
    for form in (join_heads, plain_join_heads):
        out = form(*inputs[:2], *scales)
        weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) for x in out]
        loss = sum((x * w).sum() for x, w in zip(out, weights, strict=True))
        results[form] = [*out, *torch.autograd.grad(loss, leaves)]
    for ours, plain in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, plain)


def test_normalised_queries_have_unit_mean_square_before_their_scale():
    context, image, *_ = streams(3)
    ones = torch.ones(2, 8, dtype=torch.float64)
    q, k, v = join_heads(1000 * context, image, ones, ones)
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
        torch.randn(2, 3, n, 16, generator=generator).bfloat16() for n in (num_queries, 40, 40)
    ]
    leaves = [x.double().requires_grad_() for x in inputs]
    out = nn.functional.scaled_dot_product_attention(*leaves)
    exact = (out, *torch.autograd.grad(out, leaves, torch.ones_like(out)))
    ours = error_of(attention, inputs, exact)
    torchs = error_of(nn.functional.scaled_dot_product_attention, inputs, exact)
    assert ours < 0.015
    assert ours < 4 * torchs  # which keeps logits in float32


def test_gradients_of_the_products_are_exact_in_float64():
    q, k, v = torch.randn(
        3, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).unbind()
    leaves = [x.requires_grad_() for x in (q[:, :3].clone(), k.clone(), v.clone())]
    assert torch.autograd.gradcheck(_Attention.apply, leaves)
