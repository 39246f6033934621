"""The arithmetic of the stopwatches, on clocks that we turn ourselves."""

import pytest

from rectiflow.bench.timing import pairs, rates, ratios, share_outside, share_outside_loop


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def row(step, elapsed=0.0, *, data=0.0, forward=0.0, backward=0.0, optimizer=0.0, other=0.0):
    phases = {"data": data, "forward": forward, "backward": backward}
    phases |= {"optimizer": optimizer, "other": other}
    seconds = {f"{name}_seconds": value for name, value in phases.items()}
    total = {"step_seconds": sum(phases.values()), "elapsed_seconds": elapsed}
    return {"step": step, **seconds, **total}


def test_rates_count_what_was_done_and_leave_the_warm_up_out():
    clock, calls = Clock(), []

    def work(repeat):
        calls.append(repeat)
        clock.now += [50.0, 2.0, 0.5][repeat]
        return 10 * repeat

    assert rates(work, 2, clock) == [10 / 2, 20 / 0.5]
    assert calls == [0, 1, 2]


def test_pairs_alternate_who_goes_first_and_keep_their_sides():
    order = []

    def measure(name, seconds):
        order.append(name)
        return seconds

    measured = pairs(lambda: measure("a", 1.0), lambda: measure("b", 2.0), 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured == [(1.0, 2.0)] * 3


def test_a_machine_that_slows_down_moves_both_of_a_pair_and_no_ratio():
    slowdown = iter([1, 1, 4, 4, 9, 9])
    measured = pairs(lambda: 2.0 * next(slowdown), lambda: 3.0 * next(slowdown), 3)
    assert ratios(measured) == [1.5, 1.5, 1.5]


def test_a_steady_drift_cancels_between_neighbouring_pairs():
    drift = iter([1.00, 1.01, 1.02, 1.03])
    measured = pairs(lambda: next(drift), lambda: next(drift), 2)
    assert sum(ratios(measured)) / 2 == pytest.approx(1, abs=2e-4)  # 1 % if one always led


def test_the_share_outside_is_what_the_three_phases_of_work_leave():
    phases = {"data": 0.1, "forward": 0.2, "backward": 0.4, "optimizer": 0.2, "other": 0.1}
    assert share_outside(row(1, **phases)) == pytest.approx(0.2)
    assert share_outside(row(1, forward=2.0)) == 0


def test_the_loops_share_also_counts_the_time_between_steps():
    # Steps of 1 s, of which 0.8 s are work; 0.25 s pass between any two.
    phases = {"data": 0.2, "forward": 0.3, "backward": 0.4, "optimizer": 0.1}
    rows = [row(step, 1.25 * (step - 1), **phases) for step in (20, 25, 35)]
    assert share_outside_loop(rows) == pytest.approx(1 - 0.8 / 1.25)


def test_lines_weigh_by_the_steps_they_tell_of():
    rows = [row(10, 0.0), row(11, 1.0, forward=1.0), row(20, 10.0, forward=0.5, other=0.5)]
    assert share_outside_loop(rows) == pytest.approx(1 - (1 * 1.0 + 9 * 0.5) / 10)


def test_one_line_has_no_wall_time():
    with pytest.raises(ValueError, match="between two lines, got 1"):
        share_outside_loop([row(1)])
