"""What a run's folder keeps of its past: bounded, spread over the run, the same after any kill."""

import pytest

from rectiflow import checkpoints
from rectiflow.runs import Run
from rectiflow.training.retention import outdated, remove_sheets, thinned_out
from rectiflow.training.settings.sections import AveragesSettings, RetainSettings
from tests.training.test_restart import Killed, killing_at
from tests.training.tiny import tiny_settings, tiny_train


def kept_checkpoints(written, retain):
    """Steps that are there after each of `written` was saved in turn."""
    steps = []
    for step in written:
        steps.append(step)
        gone = outdated(steps, retain)
        steps = [each for each in steps if each not in gone]
    return steps


def kept_thinned(written, every_steps, most):
    steps, largest = [], 0
    for step in written:
        steps.append(step)
        gone = thinned_out(steps, every_steps, most)
        steps = [each for each in steps if each not in gone]
        largest = max(largest, len(steps))
    return steps, largest


def test_the_newest_checkpoints_stay_and_no_others():
    assert outdated([3, 7, 8, 20], RetainSettings(newest=2)) == [3, 7]
    assert outdated([3, 7], RetainSettings(newest=3)) == []
    assert outdated([], RetainSettings(every_steps=5)) == []


def test_milestones_stay_beside_the_newest():
    retain = RetainSettings(newest=1, every_steps=100)
    assert kept_checkpoints([90, 100, 130, 200, 250, 260], retain) == [100, 200, 260]


def test_milestones_are_thinned_evenly_before_there_are_too_many():
    retain = RetainSettings(newest=1, every_steps=10, num_milestones=4)
    written = range(10, 1001, 10)
    for last, expected in (
        (40, [10, 20, 30, 40]),
        (50, [20, 40, 50]),
        (80, [20, 40, 60, 80]),
        (90, [20, 40, 60, 80, 90]),
        (100, [40, 80, 100]),
        (1000, [320, 640, 960, 1000]),
    ):
        assert kept_checkpoints([step for step in written if step <= last], retain) == expected


def test_what_is_thinned_out_leaves_half_of_the_bound_at_least_and_the_last():
    for most in (1, 2, 5, 64):
        for num in (1, most, most + 1, 3 * most, 1000):
            kept, largest = kept_thinned([7 * i for i in range(1, num + 1)], 7, most)
            assert largest <= most + 1
            assert len(kept) >= min(num, (most + 1) // 2)
            assert kept[-1] == 7 * num
            gaps = {b - a for a, b in zip([0, *kept[:-1]], kept[:-1], strict=False)}
            assert len(gaps) <= 1, "evenly"


def test_a_last_step_off_the_cadence_stays_until_there_is_a_later_one():
    assert kept_thinned([2, 4, 6, 8, 9], 2, 2)[0] == [4, 8, 9]
    assert kept_thinned([2, 4, 6, 8, 9, 10], 2, 2)[0] == [4, 8, 10]


def test_nothing_goes_before_the_bound_is_reached_though_the_cadence_changed():
    assert thinned_out([500, 1000, 1200], 300, 4) == []
    assert thinned_out([500, 1000, 1200, 1500], 300, 4) == [500, 1000]
    assert thinned_out([5, 9], 0, 1) == []


def test_what_a_killed_run_keeps_is_what_an_undisturbed_one_keeps():
    """Steps after the one gone back to are written again, after what was thinned meanwhile."""
    straight, _ = kept_thinned(range(3, 300, 3), 3, 8)
    steps = []
    for written in (range(3, 150, 3), range(99, 230, 3), range(30, 300, 3)):
        steps = [step for step in steps if step < written[0]]
        for step in written:
            steps.append(step)
            gone = thinned_out(steps, 3, 8)
            steps = [each for each in steps if each not in gone]
    assert steps == straight


def test_milestones_are_written_where_no_other_cadence_asks_for_them(tmp_path):
    run = Run(tmp_path)
    retain = RetainSettings(newest=1, every_steps=4)
    settings = tiny_settings(retain=retain, checkpoint_every_steps=0, validate_every_steps=0)
    with pytest.raises(Killed):
        tiny_train(tmp_path, settings, on_progress=killing_at(7))
    assert [path.name[-2:] for path in checkpoints.list_checkpoints(run)] == ["04"]
    tiny_train(tmp_path, settings)
    assert [path.name[-2:] for path in checkpoints.list_checkpoints(run)] == ["04", "08", "12"]


def test_kept_averages_and_sheets_of_a_run_are_bounded(tmp_path):
    run = Run(tmp_path)

    def draw(state):
        run.samples.mkdir(exist_ok=True)
        (run.samples / f"step-{state.step:08d}.png").touch()
        return {}

    settings = tiny_settings(
        num_steps=11,
        validate_every_steps=0,
        sample_every_steps=1,
        averages=AveragesSettings(widths=(0.1,), snapshot_every_steps=1),
        retain=RetainSettings(num_averages=3, num_sheets=1),
    )
    tiny_train(tmp_path, settings, observers=[draw])
    assert [path.name[-2:] for path in checkpoints.list_averages(run)] == ["04", "08", "11"]
    assert sorted(path.stem[-2:] for path in run.samples.iterdir()) == ["08", "11"]


def test_other_files_among_the_sheets_are_left_alone(tmp_path):
    run = Run(tmp_path)
    run.samples.mkdir()
    for name in ("step-00000001.png", "step-00000002.png", "step-mine.png", "mine.png"):
        (run.samples / name).touch()
    remove_sheets(run, 1, 1)
    assert sorted(path.name for path in run.samples.iterdir()) == [
        "mine.png",
        "step-00000002.png",
        "step-mine.png",
    ]


@pytest.mark.parametrize("name", ["newest", "num_milestones", "num_averages", "num_sheets"])
def test_bounds_that_keep_nothing_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        RetainSettings(**{name: 0})
    with pytest.raises(ValueError, match="every_steps must be >= 0, got -1"):
        RetainSettings(every_steps=-1)
