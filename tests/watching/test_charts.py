"""Charts say what they show, on dark and on light, for one run and for many."""

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from rectiflow.pages.ink import INK
from rectiflow.watching.charts import (
    TRAIN,
    chart_file,
    colors_of,
    draw_curves,
    draw_loss,
    draw_shapes,
    draw_tenths,
    draw_times,
    inline_chart,
)
from rectiflow.watching.history import Curve, History, history_of
from tests.watching import made_up

HISTORY = history_of(made_up.rows())
OF_ONE_RUN = [draw_loss, draw_times, draw_tenths]


def drawn(draw):
    axes = Figure().subplots()
    draw(axes)
    return axes


@pytest.mark.parametrize("draw", OF_ONE_RUN)
def test_charts_are_svg_in_the_ink_of_the_page(draw):
    svg = inline_chart(draw(HISTORY))
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag.endswith("svg")
    assert "currentColor" in svg
    assert INK not in svg
    assert svg == inline_chart(draw(HISTORY))  # the same curves, the same file


@pytest.mark.parametrize("draw", OF_ONE_RUN)
def test_charts_of_a_run_that_logged_nothing_are_empty_but_there(draw):
    assert inline_chart(draw(History())).startswith("<svg")


def test_the_loss_chart_names_its_curves_and_marks_where_a_run_went_back():
    axes = drawn(draw_loss(HISTORY, marks=[120, 130]))
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        *("training", "validation", "validation, averaged weights (EMA)"),
        "went back to a checkpoint",
    ]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_array_equal(lines["validation"].get_ydata(), HISTORY.curve("val_loss").values)
    assert lines["went back to a checkpoint"].get_xdata()[0] == 120


def test_a_tenth_is_drawn_at_its_middle_and_an_empty_one_not_at_all():
    (line, *_) = drawn(draw_times(HISTORY)).lines
    np.testing.assert_allclose(line.get_xdata(), np.arange(0.05, 1, 0.1))
    assert np.isnan(line.get_ydata()[1])
    assert len(drawn(draw_tenths(HISTORY)).lines) == 9


def test_ten_runs_have_colours_and_the_rest_is_grey_behind_them():
    curves = [(f"run {k}", Curve(np.arange(3.0), np.full(3, float(k)))) for k in range(14)]
    axes = drawn(draw_curves("Loss", curves))
    assert axes.get_legend_handles_labels()[1] == [f"run {k}" for k in range(10)]
    assert [line.get_color() for line in axes.lines[10:]] == [TRAIN] * 4
    assert len(set(colors_of(14))) == 11


def test_names_of_runs_are_shown_as_they_are():
    curve = Curve(np.arange(3.0), np.arange(3.0))
    svg = inline_chart(draw_curves("Loss", [("_a$x_1$<b>", curve), ("日本", curve)]))
    assert "_a$x_1$&lt;b&gt;" in svg
    assert "日本" in svg


def test_one_outlier_does_not_flatten_the_others():
    values = np.linspace(2, 1, 1000)
    values[700] = 1e9
    axes = drawn(draw_curves("Loss", [("a", Curve(np.arange(1000.0), values))]))
    assert axes.get_ylim()[1] < 1e8


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_files_hold_all_charts(suffix, start):
    shapes = draw_shapes("By time", [("a", np.arange(10.0))], "t")
    assert chart_file([draw_loss(HISTORY), shapes, shapes], suffix).startswith(start)
