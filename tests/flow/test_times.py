"""Grids run from noise to data and are shifted as they say."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from rectiflow.flow.densities import LogitNormal
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


def even(num: int) -> torch.Tensor:
    """Centres of `num` equal cells of (0, 1)."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


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


def test_the_karras_grid_is_edms_in_units_of_its_largest_noise():
    """arXiv:2206.00364, Eq. 5, written out."""
    sigma = 80 * time_grid(5, 1.0, "karras")
    for i in range(5):
        root = 80 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
        assert sigma[i].item() == pytest.approx(root**7, rel=1e-9)
    assert sigma[-1] == 0
    assert time_grid(1, 1.0, "karras").tolist() == [1, 0]


@pytest.mark.parametrize("grid", ["uniform", "sd3"])
def test_a_grid_may_begin_before_the_end_of_its_path(grid):
    whole, cut = time_grid(9, 3.0, grid), time_grid(9, 3.0, grid, max_time=0.98)
    torch.testing.assert_close(cut, 0.98 * whole)
    assert (cut[0].item(), cut[-1].item()) == (0.98, 0.0)


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
        (lambda: time_grid(0), r"num_steps must be >= 1, got 0"),
        (lambda: time_grid(1, shift=0.0), r"shift must be > 0, got 0.0"),
        (lambda: time_grid(9, 2.0, "karras"), r"shift must be 1 on the grid karras, got 2.0"),
        (lambda: time_grid(1, grid="cubic"), r"grid must be one of .*uniform.*got 'cubic'"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
