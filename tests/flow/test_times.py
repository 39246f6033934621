"""Densities are the laws they name; grids run from noise to data and are shifted as they say."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from rectiflow.flow.densities import MAX_MODE_SCALE, CosMap, LogitNormal, Mode, Uniform
from rectiflow.flow.paths import RectifiedFlow
from rectiflow.flow.times import (
    Window,
    remaining_times,
    resolution_shift,
    shift_times,
    steps_between,
    time_grid,
    window_of_steps,
)

DENSITIES = [
    Uniform(),
    LogitNormal(),
    LogitNormal(-1.0, 0.2),
    LogitNormal(1.0, 2.2),
    Mode(-1.0),
    Mode(0.0),
    Mode(1.29),
    Mode(1.75),
    CosMap(),
]


def even(num: int) -> torch.Tensor:
    """Centres of `num` equal cells of (0, 1)."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


@pytest.mark.parametrize("law", DENSITIES, ids=str)
def test_quantile_is_the_inverse_of_the_integrated_density(law):
    """density(t(u)) dt/du = 1, with dt/du by autograd."""
    u = even(500).requires_grad_()
    t = law.inverse_cdf(u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    assert (slope > 0).all()
    torch.testing.assert_close(law.density(t.detach()) * slope, torch.ones(500).double())


@pytest.mark.parametrize("law", DENSITIES, ids=str)
def test_extreme_draws_stay_strictly_inside(law):
    u = torch.tensor([1e-300, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    t = law.quantile(u)
    assert t.dtype == torch.float32
    assert (t > 0).all()
    assert (t < 1).all()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6), (-1.0, 1.8)])
def test_logit_normal_moments(mean, std):
    logit = torch.logit(LogitNormal(mean, std).quantile(even(200_000)).double())
    assert logit.mean().item() == pytest.approx(mean, abs=1e-4)
    assert logit.std().item() == pytest.approx(std, rel=1e-3)
    assert ((logit - mean) / std).pow(4).mean().item() == pytest.approx(3, abs=0.01)


def test_mode_density_at_the_ends_and_in_the_middle():
    """1 / (1 + s) at the ends, 1 / (1 + s - s pi / 2) at 1/2 (from the derivative of Eq. 20)."""
    for scale in (-1.0 + 1e-3, -0.54, 0.38, 1.29, 1.75):
        ends = Mode(scale).density(torch.tensor([1e-12, 1 - 1e-12], dtype=torch.float64))
        middle = Mode(scale).density(torch.tensor([0.5], dtype=torch.float64))
        assert ends.tolist() == pytest.approx([1 / (1 + scale)] * 2, rel=1e-5)
        assert middle.item() == pytest.approx(1 / (1 + scale - scale * math.pi / 2))
    assert Mode(1.29).density(torch.tensor([0.5]).double()).item() == pytest.approx(3.79, abs=0.01)
    assert Mode(1.75).density(torch.tensor([0.5]).double()).item() == pytest.approx(904, abs=1)


def test_mode_is_the_papers_map_of_a_uniform_draw():
    u = even(1000)
    paper = 1 - u - 1.29 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(Mode(1.29).inverse_cdf(u), paper.flip(0))


def test_mode_of_scale_0_is_uniform():
    assert Mode(0.0).inverse_cdf(even(10)).equal(even(10))


def test_cosmap_gives_rectified_flow_the_log_snr_of_the_cosine_schedule():
    """Cosine schedule (Eq. 17): log_snr = 2 log(cos(pi u / 2) / sin(pi u / 2)), u uniform."""
    u = even(1000)
    log_snr = RectifiedFlow().log_snr(CosMap().inverse_cdf(u))
    torch.testing.assert_close(log_snr, -2 * torch.log(torch.tan(math.pi / 2 * u)))


def test_cosmap_density_at_the_ends_and_in_the_middle():
    density = CosMap().density(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert density.tolist() == pytest.approx([2 / math.pi, 4 / math.pi, 2 / math.pi])


def test_shifting_a_logit_normal_moves_its_mean_by_the_log_of_the_shift():
    shifted = shift_times(LogitNormal(0.0, 1.0).inverse_cdf(even(1000)), 3.0)
    torch.testing.assert_close(shifted, LogitNormal(math.log(3), 1.0).inverse_cdf(even(1000)))


def test_shift_lowers_the_log_snr_by_twice_its_log():
    t = even(100)
    difference = RectifiedFlow().log_snr(shift_times(t, 2.5)) - RectifiedFlow().log_snr(t)
    torch.testing.assert_close(difference, torch.full_like(t, -2 * math.log(2.5)))


def test_grid_starts_at_noise_ends_at_data_and_is_shifted_once():
    grid = time_grid(28, shift=3.0)
    assert grid[0] == 1
    assert grid[-1] == 0
    assert len(grid) == 29
    unshifted = torch.linspace(1, 0, 29, dtype=torch.float64)
    torch.testing.assert_close(grid, shift_times(unshifted, 3.0))
    assert grid[14].item() == pytest.approx(0.75)  # 3 * 0.5 / (1 + 2 * 0.5)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 28, 50])
@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0])
def test_the_released_samplers_grid_is_that_of_diffusers(num_steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    grid = time_grid(num_steps, shift, "sd3")
    torch.testing.assert_close(grid, scheduler.sigmas.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(grid[:-1] * 1000, scheduler.timesteps.double(), atol=1e-3, rtol=0)


def test_the_released_samplers_grid_shifts_twice():
    grid = time_grid(28, 3.0, "sd3")
    assert (grid[0].item(), grid[-1].item()) == (1.0, 0.0)
    once = 3 * 0.001 / (1 + 2 * 0.001)
    assert once == pytest.approx(0.00299, abs=5e-6)
    assert grid[-2].item() == pytest.approx(3 * once / (1 + 2 * once), rel=1e-12)
    assert grid[-2].item() == pytest.approx(0.00893, abs=5e-6)
    tenth = 1 - (1 - once) * 10 / 27  # even between 1 and the shifted smallest time
    assert grid[10].item() == pytest.approx(3 * tenth / (1 + 2 * tenth), rel=1e-12)


def test_a_picture_takes_the_end_of_the_grid():
    grid = time_grid(28, 3.0, "sd3")
    assert remaining_times(grid, 1.0).equal(grid)
    assert remaining_times(grid, 0.6).equal(grid[11:])  # 28 - 16.8 = 11.2
    assert remaining_times(grid, 0.5).equal(grid[14:])
    assert remaining_times(grid, 1e-30).equal(grid[-2:])  # one step at least
    for strength in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"strength must be in \(0, 1\], got {strength}"):
            remaining_times(grid, strength)


def test_steps_between_two_shares_are_strictly_between():
    assert steps_between(50, 0.01, 0.20) == range(1, 10)  # not step 10, 10 / 50 = 0.20
    assert steps_between(100, 0.01, 0.20) == range(2, 20)  # not step 1, 1 / 100 = 0.01
    assert steps_between(28, 0.01, 0.20) == range(1, 6)
    assert steps_between(10, 0.0, 1.0) == range(1, 10)
    assert not steps_between(4, 0.01, 0.20)


def test_a_window_holds_the_starts_of_its_steps_and_what_lies_within_them():
    grid = time_grid(50, 3.0, "sd3")
    window = window_of_steps(grid, range(1, 10))
    starts = window.holds(grid[:-1].float())
    assert starts.nonzero().flatten().tolist() == list(range(1, 10))
    middles = window.holds(((grid[1:] + grid[:-1]) / 2).float())
    assert middles.nonzero().flatten().tolist() == list(range(1, 10))
    assert Window(0.1, 0.3).holds(torch.tensor([0.1, 0.2, 0.3])).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="at least one step"):
        window_of_steps(grid, range(0))


def test_shift_at_1024_pixels():
    assert resolution_shift(num_image_tokens=4096, base_num_image_tokens=1024) == 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitNormal(std=-1), r"std > 0, got mean 0.0, std -1"),
        (lambda: LogitNormal(std=math.nan), r"std > 0"),
        (lambda: LogitNormal(mean=math.inf), r"mean must be finite"),
        (lambda: Mode(-1.01), r"in \[-1, 1.7519\], got -1.01"),
        (lambda: Mode(MAX_MODE_SCALE + 1e-9), r"in \[-1, 1.7519\]"),
        (lambda: time_grid(0), r"num_steps must be >= 1, got 0"),
        (lambda: time_grid(1, shift=0.0), r"shift must be > 0, got 0.0"),
        (lambda: time_grid(1, grid="cubic"), r"grid must be one of .*uniform.*got 'cubic'"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
