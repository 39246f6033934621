import math

import pytest

from rectiflow.bench.figure import Figure, median_figure


@pytest.mark.parametrize(
    ("bars", "text", "met"),
    [
        ({}, None, None),
        ({"at_most": 3}, "<= 3", True),
        ({"at_most": 2.5}, "<= 2.5", True),
        ({"at_most": 2}, "<= 2", False),
        ({"at_least": 2.5}, ">= 2.5", True),
        ({"at_least": 3}, ">= 3", False),
    ],
)
def test_a_bar_is_met_from_one_side_and_by_its_own_value(bars, text, met):
    figure = Figure(value=2.5, unit="s", **bars)
    assert (figure.bar, figure.is_met) == (text, met)
    assert figure.row() == {"value": 2.5, "unit": "s", "bar": text, "met": met}


def test_repeated_measurements_become_their_median_and_stay_on_record():
    figure = median_figure([3, 100, 1, 2], "1/s", at_least=2.5)
    assert figure.value == 2.5
    assert figure.is_met
    assert figure.row()["repeats"] == [3, 100, 1, 2]
    assert Figure(value=1, unit="", note="warm").row()["note"] == "warm"


def test_what_is_no_figure_is_refused():
    with pytest.raises(ValueError, match="at least one measurement"):
        median_figure([], "s")
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="must be finite"):
            Figure(value=value, unit="s")
    with pytest.raises(ValueError, match="one bar"):
        Figure(value=1, unit="s", at_most=1, at_least=1)
