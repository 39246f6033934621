"""Pages of runs hold what the folders hold, and break on none."""

import base64
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rectiflow.watching.page import run_page, runs_page, write_plot
from rectiflow.watching.plots import metric_charts, run_charts
from rectiflow.watching.records import read_runs
from tests.watching import made_up
from tests.watching.made_up import NOW


def pictures_of(page):
    found = re.findall(r'<td><img src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_the_page_of_a_run_has_its_numbers_charts_and_pictures_in_order(tmp_path):
    made = made_up.finished(tmp_path / "a<b>")
    drawn = {step: made_up.sheet(made, step, seed=step) for step in (100, 300)}
    (record,) = read_runs([tmp_path], NOW)
    page = run_page(record, NOW)
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    assert page.count("<svg") == 6
    assert "1.007" in page  # the validation loss
    expected = [drawn[step][j] for j in range(4) for step in (100, 300)]
    np.testing.assert_array_equal(np.stack(pictures_of(page)), np.stack(expected))
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)  # it needs no network


def test_the_page_of_many_has_their_differences_and_newest_pictures(tmp_path):
    drawn = {}
    for k, name in enumerate(("worse", "better")):
        made = made_up.finished(tmp_path / name, level=2.0 - k, training__learning_rate=k + 0.5)
        made_up.sheet(made, 100, seed=50 + k)
        drawn[name] = made_up.sheet(made, 300, seed=k)
    page = runs_page(read_runs([tmp_path], NOW), NOW)
    assert "training.learning_rate" in page
    assert "model.depth" not in page
    expected = [drawn[name][j] for j in range(4) for name in ("better", "worse")]
    np.testing.assert_array_equal(np.stack(pictures_of(page)), np.stack(expected))


def every_state(folder):
    made_up.finished(folder / "finished")
    made_up.run(folder / "new")
    made_up.run(folder / "running", made_up.rows(1))
    made_up.run(folder / "diverged", made_up.rows(7), diverged={"step": 71, "why": "nan <here>"})
    back = {"roll_backs": [{"step": 9, "to_step": 5, "why": "x"}, {"step": None}, 3]}
    made_up.run(folder / "back", made_up.rows(3), roll_backs=back)
    (made_up.run(folder / "damaged", made_up.rows(2)).config_path).write_text("{")
    kinds = {"kind": "autoencoder", "training": {"batch_size": 4}}
    made_up.sheet(made_up.run(folder / "other", made_up.rows(5), kinds), 5)
    return read_runs([folder], NOW)


def test_runs_in_every_state_have_a_page_together(tmp_path):
    records = every_state(tmp_path)
    page = runs_page(records, NOW)
    assert len(records) == 7
    assert all(record.name in page for record in records)
    assert "nan &lt;here&gt;" in page


@pytest.mark.slow
def test_runs_in_every_state_have_a_page_of_their_own(tmp_path):
    for record in every_state(tmp_path):
        assert record.name in run_page(record, NOW)


def test_a_run_that_has_not_begun_and_one_that_went_back_have_charts(tmp_path):
    records = {record.name: record for record in every_state(tmp_path)}
    for name, marks in (("new", 0), ("back", 1)):
        axes = Figure().subplots()
        run_charts(records[name])[0](axes)
        assert sum(line.get_label() == "went back to a checkpoint" for line in axes.lines) == marks


def test_files_are_written_by_their_suffix_and_others_refused(tmp_path):
    made_up.run(tmp_path / "a")
    records = read_runs([tmp_path], NOW)
    write_plot(records, tmp_path / "a.png", NOW)
    with Image.open(tmp_path / "a.png") as file:
        assert file.width > 1000
    with pytest.raises(ValueError, match=r"must end in one of \.html, \.svg, \.png, got .*\.pdf"):
        write_plot(records, tmp_path / "a.pdf", NOW)
    with pytest.raises(ValueError, match="no run to plot"):
        write_plot([], tmp_path / "a.png", NOW)


def test_a_chosen_metric_is_drawn_of_the_runs_that_logged_it(tmp_path):
    made_up.finished(tmp_path / "first")
    made_up.run(tmp_path / "second", made_up.rows(num=5))
    made_up.run(tmp_path / "third", [{"step": 10, "attention_entropy": 3.0}])
    records = read_runs([tmp_path], NOW)
    (chart,) = metric_charts(records, ["gradient_norm"])
    axes = Figure().subplots()
    chart(axes)
    drawn = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    assert drawn.keys() == {"first", "second"}
    expected = [(step, 0.5 + 1 / step) for step in range(10, 60, 10)]
    np.testing.assert_allclose(drawn["second"], expected)


@pytest.mark.parametrize(
    ("metric", "file", "what"),
    [
        ("gradient_nrom", "a.svg", "did you mean gradient_norm?"),
        ("gradient_norm", "a.html", "as .svg or .png"),
    ],
)
def test_a_metric_that_cannot_be_drawn_is_refused(tmp_path, metric, file, what):
    made_up.finished(tmp_path / "first")
    with pytest.raises(ValueError, match=what):
        write_plot(read_runs([tmp_path / "first"], NOW), tmp_path / file, NOW, [metric])
