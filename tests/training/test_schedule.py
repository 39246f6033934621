"""The learning rate is a function of the step with known values at its corners."""

import math

import pytest

from rectiflow.training.schedule import pace_of, rate_factor, steps_in
from rectiflow.training.settings.training import TrainingSettings


def settings(**changes):
    return TrainingSettings(**{"num_steps": 100, "warmup_steps": 10, **changes})


def test_warm_up_rises_in_equal_steps_to_the_peak():
    factors = [rate_factor(step, None, settings()) for step in range(10)]
    assert factors == pytest.approx([0.1 * (k + 1) for k in range(10)])


@pytest.mark.parametrize(
    ("decay", "at_half"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)]
)
def test_decay_starts_at_the_peak_and_is_half_way_in_the_middle(decay, at_half):
    s = settings(decay=decay)
    assert rate_factor(10, 100, s) == pytest.approx(1.0)
    assert rate_factor(55, 100, s) == pytest.approx(at_half)


def test_cosine_is_a_quarter_of_the_way_where_the_cosine_is():
    factor = rate_factor(10 + 30, 100, settings(decay="cosine"))
    assert factor == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


def test_the_last_step_still_moves_and_the_one_after_would_not():
    assert rate_factor(99, 100, settings()) == pytest.approx(1 / 90)
    assert rate_factor(100, 100, settings()) == pytest.approx(0.0)


def test_a_trapezoid_has_a_plateau_until_the_last_share_of_the_steps():
    s = settings(decay_fraction=0.2)
    assert {rate_factor(step, 100, s) for step in range(10, 81)} == {1.0}
    assert rate_factor(90, 100, s) == pytest.approx(0.5)


def test_a_decay_longer_than_what_the_warm_up_leaves_starts_after_it():
    assert rate_factor(10, 12, settings(num_steps=12)) == 1.0
    assert rate_factor(11, 12, settings(num_steps=12)) == pytest.approx(0.5)


def test_the_number_of_steps_matters_only_after_the_warm_up():
    s = TrainingSettings(minutes=5, warmup_steps=25)
    for step in range(25):
        assert rate_factor(step, None, s) == rate_factor(step, 1000, s) == rate_factor(step, 50, s)
    with pytest.raises(ValueError, match="known after the warm-up, at step 25"):
        rate_factor(25, None, s)


def test_the_pace_is_the_mean_of_steps_without_those_in_which_the_process_stood_still():
    assert pace_of([1.0, 2.0, 6.0]) == pytest.approx(3.0)
    assert pace_of([1.0] * 10 + [9.0] * 9) == pytest.approx((10 + 81) / 19)  # slow, yet steps
    assert pace_of([0.25] * 19 + [3600.0]) == 0.25


def test_minutes_are_steps_at_the_measured_rate():
    assert steps_in(5, seconds_per_step=0.3) == 1000
    assert steps_in(0.01, seconds_per_step=10) == 25  # those that were measured are done already
