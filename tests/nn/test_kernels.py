"""The forms written for the CPU against the plain ones: values, derivatives, rounding."""

import pytest
import torch

from rectiflow.nn import kernels


@pytest.fixture(params=[1, 7, 2**18])
def chunk(request, monkeypatch):
    """Runs of one sample, runs that do not divide the work, and one run for all."""
    monkeypatch.setattr(kernels, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_gelu_and_its_slope_equal_torchs():
    x = torch.linspace(-12, 12, 50, dtype=torch.float64).view(2, 25).requires_grad_()
    expected = kernels.plain_gelu(x)
    torch.testing.assert_close(kernels.gelu(x), expected)
    (slope,) = torch.autograd.grad(kernels.gelu(x).sum(), x)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), x)[0])
    assert torch.autograd.gradcheck(kernels.gelu, x)


def test_gelu_in_bf16_is_rounded_once():
    x = torch.linspace(-6, 6, 4001).bfloat16()
    expected = kernels.plain_gelu(x.double())
    error = (kernels.gelu(x).double() - expected).abs()
    assert (error <= expected.abs() * 2**-8 + 1e-6).all()


def test_gelu_leaves_its_input_alone_and_takes_any_layout():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    torch.testing.assert_close(kernels.gelu(x.t()), kernels.plain_gelu(x.t()))
    assert x.equal(before)


def test_gelu_off_the_cpu_is_the_plain_form():
    x = torch.zeros(2, 3, device="meta")
    assert kernels.gelu(x).device.type == "meta"


def test_modulation_of_a_normalised_token():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    shift, scale = torch.randn(2, 3, 1, 8, generator=generator, dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(kernels.modulate(x, shift, scale), normed * (1 + scale) + shift)


def test_no_autocast_is_an_island_on_every_device():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with kernels.no_autocast(x.device):
            assert (x @ x).dtype == torch.float32
    with kernels.no_autocast(torch.device("meta")):
        pass


def test_runs_cover_every_sample_once():
    x = torch.zeros(10, 3, 2)
    for chunk in (1, 12, 25, 1000):
        kernels_chunk, kernels.CHUNK = kernels.CHUNK, chunk
        rows = [i for run in kernels.runs_of_samples(x) for i in range(10)[run]]
        kernels.CHUNK = kernels_chunk
        assert rows == list(range(10))


@pytest.mark.parametrize("num", [3, 1, kernels.MAX_FEW + 1])
@pytest.mark.parametrize("num_outputs", [16, 7])
def test_the_linear_layer_of_a_few_vectors_is_torchs(num, num_outputs):
    generator = torch.Generator().manual_seed(0)
    layer = kernels.LinearOfFew(5, num_outputs, dtype=torch.float64)
    x = torch.randn(num, 5, generator=generator, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(run, [x, *layer.parameters()])


def test_what_a_compiler_is_told_of_the_linear_layer_is_true():
    x, weight, bias = torch.randn(3, 5), torch.randn(16, 5), torch.randn(16)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    leaves = tuple(each.clone().requires_grad_() for each in (x, weight, bias))
    torch.library.opcheck(kernels.linear_of_few, leaves, test_utils=tests)
    grad = torch.randn(3, 16)
    torch.library.opcheck(kernels.linear_of_few_backward, (grad, x, weight), test_utils=tests)
