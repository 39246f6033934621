from xml.etree import ElementTree

import numpy as np
import pytest

from rectiflow.pages.ink import INK
from rectiflow.quickstart import charts
from tests.quickstart import made_up


def test_a_series_has_the_lines_that_name_it():
    steps, values = charts.series(made_up.metrics(), "val_loss")
    assert steps.tolist() == [50, 100, 150, 200, 250, 300]
    assert values.tolist() == [0.9] * 6
    assert len(charts.series([], "loss")[0]) == 0


def test_smoothing_leaves_a_straight_line_alone():
    line = 3 - 0.5 * np.arange(20.0)
    np.testing.assert_allclose(charts.smoothed(line, 9), line, atol=1e-12)


def test_smoothing_averages_as_many_values_as_it_says():
    spike = np.zeros(21)
    spike[10] = 9.0
    np.testing.assert_allclose(charts.smoothed(spike, 9)[6:15], 1.0)
    assert charts.smoothed(spike, 9)[5] == 0


def test_losses_of_a_stage_are_means_over_its_lines_and_skip_empty_tenths():
    rows = [{"step": 10 * i, "loss_by_t": [float(i), None if i < 3 else 4.0]} for i in range(1, 5)]
    (first, early), (second, late) = charts.losses_by_stage(rows, 2)
    assert (first, second) == ("steps 1-20", "steps 21-40")
    assert early[0] == pytest.approx(1.5)
    assert np.isnan(early[1])
    assert late.tolist() == [3.5, 4.0]


def test_stages_are_no_more_than_lines():
    rows = [{"step": 10, "loss_by_t": [1.0] * 10}, {"step": 20, "loss": 1.0}]
    assert len(charts.losses_by_stage(rows, 5)) == 1
    assert charts.losses_by_stage([], 5) == []


@pytest.mark.parametrize("chart", [charts.loss_chart, charts.time_chart])
def test_charts_are_svg_in_the_ink_of_the_page(chart):
    svg = chart(made_up.metrics())
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.tag.endswith("svg")
    assert "currentColor" in svg
    assert INK not in svg
    assert svg == chart(made_up.metrics())  # the same curves, the same file


def test_the_loss_chart_names_its_three_curves():
    svg = charts.loss_chart(made_up.metrics())
    for label in ("training", "validation", "averaged weights (EMA)"):
        assert label in svg


def test_charts_of_a_run_that_logged_nothing_are_empty_but_there():
    assert charts.loss_chart([]).startswith("<svg")
    assert charts.time_chart([]).startswith("<svg")
