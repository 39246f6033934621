"""Identities every path obeys, whatever its coefficients."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from rectiflow.flow.paths import (
    Cosine,
    DdpmLinear,
    LdmLinear,
    RectifiedFlow,
    VarianceExploding,
)
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import time_grid

PATHS = [RectifiedFlow(), VarianceExploding(), Cosine(), LdmLinear(), DdpmLinear()]
LAST = {"LdmLinear": 0.0682649, "DdpmLinear": 0.00635282}  # alpha(1), from the product of the steps


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_path_begins_at_data_and_ends_in_noise(path, generator):
    data, noise = torch.randn(2, 4, 3, 8, 8, generator=generator, dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)
    assert path.interpolate(data, noise, 0 * one).equal(data)
    alpha = {"VarianceExploding": 1.0, **LAST}.get(type(path).__name__, 0.0)
    sigma = 80.0 if alpha == 1 else (1 - alpha**2) ** 0.5
    torch.testing.assert_close(
        path.interpolate(data, noise, one), alpha * data + sigma * noise, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_derivatives_agree_with_autograd(path):
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).requires_grad_()
    c = path.coefficients(t)
    pairs = [(c.alpha, c.d_alpha), (c.sigma, c.d_sigma), (path.log_snr(t), path.d_log_snr(t))]
    for value, expected in pairs:
        (slope,) = torch.autograd.grad((value + 0 * t).sum(), t, retain_graph=True)
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
    """Data ~ N(0, 0.3^2): x keeps its quantile, so that x(0) = 0.3 x / spread."""
    std = 0.3

    def spread(t):
        c = path.coefficients(t)
        return ((c.alpha * std) ** 2 + c.sigma**2).sqrt()

    def velocity(x, t):
        c, t = path.coefficients(t.view(-1, 1)), t.view(-1, 1)
        return x * (c.alpha * c.d_alpha * std**2 + c.sigma * c.d_sigma) / spread(t) ** 2

    noise = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    is_edm = isinstance(path, VarianceExploding)
    times = time_grid(200, 1.0, "karras") if is_edm else path.max_time * time_grid(200).square()
    start = path.beginning(noise)
    sample = integrate(velocity, start, times, SOLVERS["heun"])
    torch.testing.assert_close(sample, std * start / spread(times[0]), rtol=3e-3, atol=1e-4)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_velocity_and_noise_are_the_papers_by_the_log_snr(path, generator):
    """u = (a'/a) z - (b/2) lambda' eps (Eq. 10), eps = -2 / (lambda' b) (v - (a'/a) z) (Eq. 11)."""
    data, noise = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    c, slope = path.coefficients_like(t, data), path.d_log_snr(t).view(-1, 1)
    x = path.interpolate(data, noise, t)
    velocity = c.d_alpha / c.alpha * x - c.sigma / 2 * slope * noise
    torch.testing.assert_close(velocity, path.velocity(data, noise, t))
    papers = -2 / (slope * c.sigma) * (velocity - c.d_alpha / c.alpha * x)
    torch.testing.assert_close(papers, path.noise_from_velocity(velocity, x, t))


def test_rectified_flow_is_noise_minus_data_and_its_log_snr_twice_the_odds(generator):
    data, noise = torch.randn(2, 5, 3, generator=generator)
    t = torch.rand(5, generator=generator)
    assert RectifiedFlow().velocity(data, noise, t).equal(noise - data)
    torch.testing.assert_close(RectifiedFlow().log_snr(t), -2 * torch.logit(t))
    assert RectifiedFlow().log_snr(torch.zeros(1)).item() == float("inf")


def test_the_cosine_path_is_the_tangent_and_stops_short_of_pure_noise():
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    torch.testing.assert_close(Cosine().log_snr(t), -2 * torch.log(torch.tan(math.pi / 2 * t)))
    last = Cosine().coefficients(torch.tensor(Cosine.max_time, dtype=torch.float64))
    assert (last.alpha.item(), 1 / last.alpha.item()) == pytest.approx((0.031, 32), rel=0.02)
    assert Cosine().coefficients(torch.ones(1)).alpha.item() == 0  # not below, in float32


def test_edms_path_is_that_of_its_noise_levels(generator):
    data, noise = torch.randn(2, 3, 5, generator=generator)
    t = torch.tensor([0.002, 0.5, 80.0]) / 80
    sigma = torch.tensor([[0.002], [0.5], [80.0]])
    path = VarianceExploding()
    torch.testing.assert_close(path.interpolate(data, noise, t), data + sigma * noise)
    torch.testing.assert_close(path.velocity(data, noise, t), 80 * noise)
    torch.testing.assert_close(path.beginning(noise), 80 * noise)
    assert path.clipped(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.002 / 80, 1])


@pytest.mark.parametrize(
    ("path", "schedule", "first", "last"),
    [(LdmLinear(), "scaled_linear", 0.00085, 0.012), (DdpmLinear(), "linear", 1e-4, 0.02)],
    ids=str,
)
def test_discrete_schedules_agree_with_diffusers_at_every_knot(path, schedule, first, last):
    oracle = DDPMScheduler(1000, beta_start=first, beta_end=last, beta_schedule=schedule)
    knots = torch.arange(1, 1001, dtype=torch.float64) / 1000
    power = path.coefficients(knots).alpha.square()
    torch.testing.assert_close(power, oracle.alphas_cumprod.double(), rtol=2e-5, atol=0)
    assert path.coefficients(knots[-1]).alpha.item() == pytest.approx(
        LAST[type(path).__name__], 1e-5
    )


@pytest.mark.parametrize("path", [LdmLinear(), DdpmLinear()], ids=str)
def test_between_knots_noise_rises_and_the_velocity_is_continuous(path):
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    angle, rate = path.angle(t)
    assert (angle.diff() > 0).all()
    assert (rate > 0).all()
    knots = torch.arange(1, 1000, dtype=torch.float64) / 1000
    below, above = (path.angle(knots + side)[1] for side in (-1e-9, 1e-9))
    torch.testing.assert_close(below, above, rtol=1e-4, atol=0)
    at_data = path.coefficients(torch.zeros(1)).d_sigma.item()
    slope = {"LdmLinear": 0.00085, "DdpmLinear": 1e-4}[type(path).__name__] ** 0.5 * 1000
    assert at_data == pytest.approx(slope, rel=1e-3)  # finite: that of the first step


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_float32_is_enough(path):
    t = torch.tensor([0.0, 1e-5, 2.5e-5, 1e-3, 0.1, 0.5005, 0.9, path.max_time])
    exact = path.coefficients(t.double())
    for single, double in zip(path.coefficients(t), exact, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_time_of_a_log_snr_is_found(path):
    t = torch.tensor([1e-3, 0.2, 0.7, 0.999], dtype=torch.float64)
    torch.testing.assert_close(path.time_at(path.log_snr(t)), t, rtol=1e-9, atol=0)


def test_a_noise_that_a_path_does_not_reach_is_refused():
    with pytest.raises(ValueError, match=r"log_snr must be >= -5\.364, got -6\.000"):
        LdmLinear().time_at(torch.tensor([0.0, -6.0]))


def test_time_of_wrong_shape_is_refused(generator):
    data = torch.randn(4, 3, generator=generator)
    # ValueError from the library; TypeError from the test hook, which checks shapes first.
    with pytest.raises((ValueError, TypeError)):
        RectifiedFlow().interpolate(data, data, torch.zeros(4, 1))


def test_time_in_half_precision_is_refused(generator):
    data = torch.randn(4, 3, generator=generator)
    with pytest.raises(ValueError, match="t must be float32"):
        RectifiedFlow().interpolate(data, data, torch.zeros(4, dtype=torch.bfloat16))
