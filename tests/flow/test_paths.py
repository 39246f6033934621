"""Identities every path obeys, whatever its coefficients."""

import pytest
import torch

from rectiflow.flow.paths import RectifiedFlow
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import time_grid

PATHS = [RectifiedFlow()]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_endpoints_are_data_and_noise(path, generator):
    data, noise = torch.randn(2, 4, 3, 8, 8, generator=generator)
    torch.testing.assert_close(path.interpolate(data, noise, torch.zeros(4)), data)
    torch.testing.assert_close(path.interpolate(data, noise, torch.ones(4)), noise)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_derivatives_agree_with_autograd(path):
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).requires_grad_()
    c = path.coefficients(t)
    pairs = [(c.alpha, c.d_alpha), (c.sigma, c.d_sigma), (path.log_snr(t), path.d_log_snr(t))]
    for value, expected in pairs:
        (slope,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        torch.testing.assert_close(slope, expected.detach())


# Batch equal to width: a time of shape (batch,) that broadcasts over width would pass unseen.
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (8, 3, 8, 8), (5, 2)], ids=str)
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_velocity_recovers_data_and_noise(path, shape, generator):
    data, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    t = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    x, velocity = path.interpolate(data, noise, t), path.velocity(data, noise, t)
    torch.testing.assert_close(path.data_from_velocity(velocity, x, t), data)
    torch.testing.assert_close(path.noise_from_velocity(velocity, x, t), noise)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_exact_flow_of_gaussian_data(path, generator):
    """Data ~ N(0, 0.3^2) has the exact flow x(0) = 0.3 x(1): checks direction, sign and solver."""
    std = 0.3

    def velocity(x, t):
        c = path.coefficients(t.view(-1, 1))
        variance = (c.alpha * std) ** 2 + c.sigma**2
        return x * (c.alpha * c.d_alpha * std**2 + c.sigma * c.d_sigma) / variance

    noise = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    sample = integrate(velocity, noise, time_grid(200), SOLVERS["heun"])
    torch.testing.assert_close(sample, std * noise, rtol=1e-3, atol=1e-4)


def test_rectified_flow_is_noise_minus_data_and_its_log_snr_twice_the_odds(generator):
    data, noise = torch.randn(2, 5, 3, generator=generator)
    t = torch.rand(5, generator=generator)
    assert RectifiedFlow().velocity(data, noise, t).equal(noise - data)
    torch.testing.assert_close(RectifiedFlow().log_snr(t), -2 * torch.logit(t))
    assert RectifiedFlow().log_snr(torch.zeros(1)).item() == float("inf")


def test_time_of_wrong_shape_is_refused(generator):
    data = torch.randn(4, 3, generator=generator)
    # ValueError from the library; TypeError from the test hook, which checks shapes first.
    with pytest.raises((ValueError, TypeError)):
        RectifiedFlow().interpolate(data, data, torch.zeros(4, 1))


def test_time_in_half_precision_is_refused(generator):
    data = torch.randn(4, 3, generator=generator)
    with pytest.raises(ValueError, match="t must be float32"):
        RectifiedFlow().interpolate(data, data, torch.zeros(4, dtype=torch.bfloat16))
