"""The status line: the present rate, the loss, the time left, on one line."""

import io

import pytest
from rich.console import Console

from rectiflow.cli.console import Progress, status_bar
from rectiflow.cli.status import WINDOW_SECONDS, Pace, status_text


def paced(seconds_per_step, now=0.0, done=0):
    """A pace after these steps, and where it stands."""
    pace = Pace(now, done)
    for seconds in seconds_per_step:
        now, done = now + seconds, done + 1
        pace.add(now, done)
    return pace.per_second(now, done)


def test_the_line_tells_rate_loss_and_time_left():
    facts = {"loss": 0.18724, "val_loss_ema": 0.1816, "samples_per_second": 141.2, "note": "text"}
    assert status_text(1200, 10000, 4.0, facts) == (
        "1,200/10,000  141 samples/s  36 min 40 s left  loss 0.1872  validation 0.1816"
    )


def test_slow_work_is_told_by_what_each_takes_and_unknown_ends_have_no_time_left():
    assert status_text(3, 8, 0.25) == "3/8  4 s each  20 s left"
    assert status_text(3, None, 2.0) == "3/?  2/s"
    assert status_text(8, 8, 2.0) == "8/8  2/s"
    assert status_text(0, 8, 0.0) == "0/8"


def test_a_resumed_run_is_paced_by_what_this_process_did():
    assert paced([0.5] * 20, done=9000) == pytest.approx(2.0)


def test_the_pace_forgets_a_slow_start():
    assert paced([120.0] + [0.5] * 200) == pytest.approx(2.0, rel=0.02)
    slowed_down = paced([0.1] * 2000 + [1.0] * 100)
    assert slowed_down == pytest.approx(1.0, rel=0.02)


def test_steps_longer_than_the_window_are_averaged_over_several():
    assert paced([2 * WINDOW_SECONDS, 4 * WINDOW_SECONDS] * 4) == pytest.approx(
        1 / (3 * WINDOW_SECONDS), rel=0.35
    )
    assert paced([2 * WINDOW_SECONDS] * 9) == pytest.approx(1 / (2 * WINDOW_SECONDS))


def test_the_pace_keeps_a_bounded_memory():
    pace = Pace(0.0, 0)
    for step in range(100_000):
        pace.add(step * 1e-3, step)
    assert len(pace._marks) < 70


@pytest.mark.parametrize("width", [30, 60, 120])
def test_the_status_is_one_line_however_narrow_the_terminal(width):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    bar = status_bar(console)
    text = status_text(1200, 10000, 4.0, {"loss": 0.18724, "samples_per_second": 141.2})
    bar.add_task("training", total=10000, completed=1200, text=text)
    console.print(bar.get_renderable())
    (line,) = out.getvalue().splitlines()
    assert len(line) <= width
    assert "training 1,200/10,000" in line
    assert ("36 min 40 s left" in line) == (width > 30)
    assert ("loss 0.1872" in line) == (width == 120)


def test_an_end_that_is_told_twice_is_one_line(capsys):
    with Progress() as progress:
        for stage in ("encoding", "verifying"):
            for done in (0, 5, 5):
                progress(stage, done, 5)
    lines = [line.split()[:2] for line in capsys.readouterr().err.splitlines()]
    both = [["0/5"], ["5/5"]]
    assert lines == [[stage, *done] for stage in ("encoding", "verifying") for done in both]
