"""Solvers converge at their stated order on an equation with a known solution."""

import math

import pytest
import torch

from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import time_grid

ORDER = {"euler": 1, "midpoint": 2, "heun": 2}


@pytest.mark.parametrize("name", SOLVERS)
def test_order_of_convergence(name):
    """dx/dt = x cos t, x(0) = 1, so x(1) = exp(sin 1)."""

    def error(num_steps):
        times = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
        start = torch.ones(2, 1, dtype=torch.float64)
        x = integrate(lambda x, t: x * t.cos().view(-1, 1), start, times, SOLVERS[name])
        return (x - math.exp(math.sin(1))).abs().max().item()

    observed = math.log2(error(64) / error(128))
    assert observed == pytest.approx(ORDER[name], abs=0.1)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_costs_as_many_evaluations_as_its_order(name):
    calls = []

    def velocity(x, t):
        calls.append(t)
        return x

    integrate(velocity, torch.ones(3, 2), time_grid(5), SOLVERS[name])
    assert len(calls) == 5 * ORDER[name]
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in calls)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_constant_velocity_is_followed_exactly_in_one_step(name):
    """A straight path needs one step: from noise, minus the velocity, to data."""
    data, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    sample = integrate(lambda x, t: noise - data, noise, time_grid(1), SOLVERS[name])
    torch.testing.assert_close(sample, data)


@pytest.mark.parametrize("name", SOLVERS)
def test_times_that_the_network_sees_are_those_of_the_grid(name):
    seen = []
    grid = time_grid(4, shift=3.0)
    integrate(lambda x, t: seen.append(t[0].item()) or x, torch.ones(1, 1), grid, SOLVERS[name])
    expected = {"euler": grid[:-1], "heun": grid.repeat_interleave(2)[1:-1]}
    expected["midpoint"] = torch.stack([grid[:-1], (grid[:-1] + grid[1:]) / 2], dim=1).flatten()
    torch.testing.assert_close(torch.tensor(seen), expected[name].float())


def test_integration_tracks_no_gradient():
    weight = torch.ones(1, requires_grad=True)
    assert not integrate(lambda x, t: weight * x, torch.ones(1, 1), time_grid(2)).requires_grad
