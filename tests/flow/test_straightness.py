import math

import pytest
import torch

from rectiflow.flow.paths import Cosine, LdmLinear, RectifiedFlow, VarianceExploding
from rectiflow.flow.solvers import SOLVERS
from rectiflow.flow.straightness import path_length, relative_decrease, step_drop
from rectiflow.flow.times import uniform_times

NOISE = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DATA = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def to_one_point(path):
    """The flow whose data is a single point: every path leads straight to it."""

    def velocity(x, t):
        at = path.coefficients_like(t, x)
        noise = (x - at.alpha * DATA) / at.sigma
        return at.d_alpha * DATA + at.d_sigma * noise

    return velocity


def rotation(x, t):
    """Once round the origin within a time of 1."""
    return 2 * math.pi * torch.stack([-x[:, 1], x[:, 0]], dim=1)


def test_a_straight_path_is_as_long_as_its_ends_are_apart():
    found = path_length(to_one_point(RectifiedFlow()), NOISE, uniform_times(50))
    expected = (NOISE - DATA).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.length, expected)
    torch.testing.assert_close(found.distance, expected)


def test_the_length_is_the_sum_of_velocity_times_step():
    """On Euler's polygon of a rotation: each step is 2 pi / n times a radius that grows."""
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    turn = 2 * math.pi / 50
    growth = math.sqrt(1 + turn**2)
    found = path_length(rotation, x, uniform_times(50))
    expected = turn * sum(growth**k for k in range(50))
    assert found.length.tolist() == pytest.approx([expected, 3 * expected], rel=1e-12)
    assert found.length[0] > 2 * math.pi > 5 * found.distance[0]


def test_a_fine_polygon_of_a_circle_is_its_circumference():
    x = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    found = path_length(rotation, x, uniform_times(400), SOLVERS["heun"])
    assert found.length.item() == pytest.approx(4 * math.pi, rel=1e-4)
    assert found.distance.item() < 1e-2


def test_gaussian_data_have_paths_of_known_length():
    """They shrink to the least standard deviation of x_t on the line to the origin, then grow."""
    std = 0.75

    def velocity(x, t):
        t = t.view(-1, 1)
        return x * (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)

    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    found = path_length(velocity, x, uniform_times(200), SOLVERS["rk4"])
    least = std / math.sqrt(1 + std**2)
    assert found.length.item() == pytest.approx(5 * (1 - least + std - least), abs=1e-3)
    assert found.distance.item() == pytest.approx(5 * (1 - std), abs=1e-6)


@pytest.mark.parametrize("path", [RectifiedFlow(), Cosine(), LdmLinear(), VarianceExploding()])
def test_lengths_compare_between_paths(path):
    """Measured as rectified flow has it, any path to a point is straight; its length is the same
    but for where it begins."""
    times = path.max_time * uniform_times(10)
    t = times[:1].expand(3)
    x, at = path.interpolate(DATA.expand_as(NOISE), NOISE, t), path.coefficients_like(t, NOISE)
    found = path_length(to_one_point(path), x, times, path=path)
    part = (at.sigma / (at.alpha + at.sigma)).flatten()
    expected = part * (NOISE - DATA).flatten(1).norm(dim=1)
    torch.testing.assert_close(found.length, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.distance, expected, rtol=1e-5, atol=0)
    assert part[0] > 0.92


def test_a_straight_flow_loses_nothing_in_few_steps():
    def score(x):
        return 1 / (1 + (x - DATA).square().mean().item())

    drops = step_drop(to_one_point(RectifiedFlow()), NOISE, score)
    assert list(drops) == [5, 10, 20]
    assert list(drops.values()) == pytest.approx([0, 0, 0], abs=1e-9)


def test_a_curved_flow_loses_the_more_the_fewer_the_steps():
    """Euler's rotation ends at the radius (1 + (2 pi / n)^2)^(n / 2), a score of its inverse."""
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    drops = step_drop(rotation, x, lambda end: 1 / end.norm().item(), steps=(4, 16), most_steps=64)

    def expected(n):
        return (1 + (2 * math.pi / n) ** 2) ** (-n / 2)

    assert drops[4] == pytest.approx(100 * (1 - expected(4) / expected(64)), rel=1e-9)
    assert drops[16] == pytest.approx(100 * (1 - expected(16) / expected(64)), rel=1e-9)
    assert drops[4] > drops[16] > 10


def test_the_decrease_is_relative_to_many_steps():
    assert relative_decrease(0.957, 1.0) == pytest.approx(4.3)
    assert relative_decrease(0.22, 0.2) == pytest.approx(-10)
    with pytest.raises(ValueError, match="relative to a positive score, got 0"):
        relative_decrease(0.1, 0)


def test_a_solver_with_steps_of_its_own_has_no_polygon():
    with pytest.raises(ValueError, match="steps of its own"):
        path_length(rotation, torch.ones(1, 2), uniform_times(5), SOLVERS["dopri5"])
