"""The stochastic sampler passes through the distributions of the flow, on every path."""

import math

import pytest
import torch

from rectiflow.flow.paths import Cosine, DdpmLinear, LdmLinear, RectifiedFlow, VarianceExploding
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.steps import own_noise
from rectiflow.flow.times import time_grid

MEAN, STD = 1.5, 0.4  # of Gaussian data
PATHS = [RectifiedFlow(), Cosine(), LdmLinear(), DdpmLinear(), VarianceExploding()]


def marginal(path, t):
    """Mean and standard deviation of x_t on Gaussian data."""
    c = path.coefficients(t)
    return c.alpha * MEAN, ((c.alpha * STD) ** 2 + c.sigma**2).sqrt()


def velocity_on(path):
    """Of Gaussian data: the quantiles of x_t move with its mean and spread."""

    def velocity(x, t):
        c = path.coefficients(t.view(-1, 1))
        mean, spread = c.alpha * MEAN, (c.alpha * STD) ** 2 + c.sigma**2
        rate = (c.alpha * c.d_alpha * STD**2 + c.sigma * c.d_sigma) / spread
        return c.d_alpha * MEAN + rate * (x - mean)

    return velocity


def noise_of(seed):
    return own_noise([torch.Generator().manual_seed(seed)])


def law(path, times):
    """Mean and spread at the end, exactly: it is affine in the start and in the noise of each step.

    The first row has neither, the second a start one unit away, each other one draw of noise.
    """
    num_steps, step = len(times) - 1, iter(range(len(times)))

    def draw(x):
        return torch.eye(num_steps + 2, dtype=x.dtype)[2 + next(step)].view(-1, 1)

    mean, spread = marginal(path, times[0])
    start = mean.expand(num_steps + 2, 1).clone()
    start[1] += 1
    end = integrate(velocity_on(path), start, times, SOLVERS["sde"], path=path, draw=draw)
    of_start, *of_noise = (end[1:, 0] - end[0, 0]).tolist()
    return end[0].item(), math.hypot(of_start * spread, *of_noise)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("until", [0.5, 0.05])
def test_its_distribution_tends_to_that_of_the_flow_with_first_order(path, until):
    """On the way too: it passes through the marginals of the flow, and does not only end alike."""
    power = 7 if isinstance(path, VarianceExploding) else 1  # an even grid, or Karras'
    expected = [value.item() for value in marginal(path, torch.tensor(until).double())]

    def error(num_steps):
        ends = torch.tensor([path.max_time, until], dtype=torch.float64) ** (1 / power)
        times = torch.linspace(*ends.tolist(), num_steps + 1, dtype=torch.float64) ** power
        return max(abs(a - b) for a, b in zip(law(path, times), expected, strict=True))

    assert error(128) < 0.03 * max(expected)
    assert math.log2(error(64) / error(128)) == pytest.approx(1, abs=0.15)


def test_samples_have_the_data_s_mean_and_spread_and_are_not_those_of_the_flow():
    path, num = RectifiedFlow(), 10_000
    start = noise_of(0)(torch.zeros(1, num))
    ends = [
        integrate(velocity_on(path), start, time_grid(300), SOLVERS[name], draw=noise_of(1))
        for name in ("sde", "heun")
    ]
    assert ends[0].mean().item() == pytest.approx(MEAN, abs=0.02)
    assert ends[0].std().item() == pytest.approx(STD, abs=0.02)
    pairs = [torch.corrcoef(torch.stack([end[0], start[0]]))[0, 1].item() for end in ends]
    assert abs(pairs[0]) < 0.05  # from t = 1, where nothing of the noise says what the data is
    assert pairs[1] > 0.99


def test_a_sample_is_a_function_of_its_own_generator():
    path, start = RectifiedFlow(), torch.randn(3, 5, generator=torch.Generator().manual_seed(9))

    def drawn(rows, seeds):
        draw = own_noise([torch.Generator().manual_seed(seed) for seed in seeds])
        return integrate(velocity_on(path), start[rows], time_grid(4), SOLVERS["sde"], draw=draw)

    together = drawn([0, 1, 2], [10, 11, 12])
    assert torch.cat([drawn([i], [10 + i]) for i in range(3)]).equal(together)
    assert (drawn([0, 1, 2], [10, 11, 13]) - together).abs().amax(dim=1).tolist()[:2] == [0, 0]
    assert (drawn([2], [13]) - together[2:]).abs().min() > 0


def test_noise_is_needed_and_one_generator_for_each_sample():
    with pytest.raises(ValueError, match="needs a source of noise"):
        integrate(lambda x, t: x, torch.ones(1, 1), time_grid(2), SOLVERS["sde"])
    with pytest.raises(ValueError, match="2 samples need as many generators, got 1"):
        integrate(lambda x, t: x, torch.ones(2, 1), time_grid(2), SOLVERS["sde"], draw=noise_of(0))
