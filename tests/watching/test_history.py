"""Curves are what the lines say, whatever happened to the file."""

import json

import numpy as np
import pytest

from rectiflow.watching.history import (
    Curve,
    Least,
    history_of,
    losses_by_stage,
    read_history,
    smoothed,
    thinned,
)
from tests.watching import made_up


def write(path, *lines):
    path.write_bytes(b"".join(lines))
    return path


def test_a_curve_has_the_lines_that_name_it():
    history = history_of(made_up.rows())
    assert history.curve("val_loss").steps.tolist() == [50, 100, 150, 200, 250, 300]
    assert history.curve("val_loss").values[0] == 1 + 3 / 50
    assert len(history.curve("loss").steps) == 30
    assert history.num_steps == 300
    assert len(history.curve("nothing").steps) == 0
    assert history.last("nothing") is None


def test_an_entry_without_samples_is_nan_and_so_no_number():
    steps, table = history_of(made_up.rows(num=2)).table("loss_by_t")
    assert steps.tolist() == [10, 20]
    assert np.isnan(table[:, 1]).all()
    assert table[0, 2] == pytest.approx(1.2)


def test_the_least_value_knows_its_step_and_the_present_one_is_a_mean_of_nine():
    history = history_of([{"step": k, "loss": float(abs(k - 7))} for k in range(1, 21)])
    assert history.least("loss") == Least(0.0, 7)
    assert history.recent("loss") == np.mean([5, 6, 7, 8, 9, 10, 11, 12, 13])


def test_lines_of_a_run_that_went_back_replace_the_later_ones():
    rows = [{"step": s, "loss": float(s)} for s in (10, 20, 30, 40)]
    rows += [{"step": 20, "loss": -2.0}, {"step": 30, "loss": -3.0}]
    curve = history_of(rows).curve("loss")
    assert curve.steps.tolist() == [10, 20, 30]
    assert curve.values.tolist() == [10.0, -2.0, -3.0]


def test_damaged_lines_are_passed_over_and_counted_and_half_ones_are_not_missed(tmp_path):
    path = write(
        tmp_path / "metrics.jsonl",
        b'{"step": 1, "loss": 1.0}\n',
        b'{"step": 2, "lo\xff\xfe\n',
        b"[1, 2]\n",
        b'{"loss": 5.0}\n',
        b'{"step": true, "loss": 5.0}\n',
        b'{"step": 1' + b"0" * 400 + b', "loss": 5.0}\n',
        b"\x00" * 50 + b"\n",
        b'{"step": 3, "loss": 3.0}\n',
        b'{"step": 4, "loss": 4',
    )
    history = read_history(path)
    assert history.curve("loss").steps.tolist() == [1, 3]
    assert history.problems == ("metrics.jsonl: 6 lines damaged and passed over",)


def test_values_that_are_no_finite_numbers_are_left_out(tmp_path):
    line = '{"step": 1, "a": NaN, "b": Infinity, "c": true, "d": "x", "e": [1, "x"], "f": [], '
    path = write(tmp_path / "m", (line + f'"g": {10**400}, "h": 2, "i": [null, 1]}}\n').encode())
    history = read_history(path)
    assert set(history.curves) == {"h"}
    assert set(history.tables) == {"i"}


def test_a_list_that_changes_its_length_begins_anew():
    rows = [{"step": 1, "x": [1.0, 2.0]}, {"step": 2, "x": [3.0]}, {"step": 3, "x": [4.0]}]
    assert history_of(rows).table("x").values.tolist() == [[3.0], [4.0]]


def test_the_end_of_a_long_file_is_read_alone(tmp_path):
    lines = [json.dumps({"step": k, "loss": float(k)}).encode() + b"\n" for k in range(10_000)]
    path = write(tmp_path / "metrics.jsonl", *lines)
    history = read_history(path, last_bytes=1000)
    assert history.problems == ()
    assert 20 < len(history.curve("loss").steps) < 40
    assert history.last("loss") == 9999
    assert history.least("loss") is None  # what was not read may hold a lesser one
    assert len(read_history(path).curve("loss").steps) == 10_000
    assert read_history(path).least("loss") == Least(0.0, 0)


def test_what_is_not_there_or_no_file_has_no_lines(tmp_path):
    assert read_history(tmp_path / "nothing").num_steps == 0
    (problem,) = read_history(tmp_path).problems
    assert "cannot be read" in problem


def test_smoothing_leaves_a_straight_line_alone():
    line = 3 - 0.5 * np.arange(20.0)
    np.testing.assert_allclose(smoothed(line, 9), line, atol=1e-12)


def test_smoothing_averages_as_many_values_as_it_says():
    spike = np.zeros(21)
    spike[10] = 9.0
    np.testing.assert_allclose(smoothed(spike, 9)[6:15], 1.0)
    assert smoothed(spike, 9)[5] == 0


def test_thinning_keeps_the_mean_of_a_curve_and_its_last_step():
    curve = Curve(np.arange(1.0, 1002.0), np.sin(np.arange(1001.0)) + 5)
    thin = thinned(curve, 143)
    assert len(thin.steps) == 143
    assert thin.steps[-1] == 1001
    assert thin.values.mean() == pytest.approx(curve.values.mean(), abs=1e-9)
    assert thinned(curve, 1001) is curve


def test_losses_of_a_stage_are_means_over_its_lines_and_skip_empty_tenths():
    rows = [{"step": 10 * i, "loss_by_t": [float(i), None if i < 3 else 4.0]} for i in range(1, 5)]
    (first, early), (second, late) = losses_by_stage(history_of(rows), 2)
    assert (first, second) == ("steps 1-20", "steps 21-40")
    assert early[0] == pytest.approx(1.5)
    assert np.isnan(early[1])
    assert late.tolist() == [3.5, 4.0]


def test_stages_are_no_more_than_lines():
    rows = [{"step": 10, "loss_by_t": [1.0] * 10}, {"step": 20, "loss": 1.0}]
    assert len(losses_by_stage(history_of(rows), 5)) == 1
    assert losses_by_stage(history_of([]), 5) == []
