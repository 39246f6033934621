"""Values read as a person writes them."""

import pytest

from rectiflow.pages.words import duration, shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (47.6, "48 s"),
        (59.7, "1 min 00 s"),
        (303.2, "5 min 03 s"),
        (3599.7, "1 h 00 min"),
        (7530, "2 h 06 min"),
        (47 * 3600 + 3599, "2 d 00 h"),
        (76 * 3600, "3 d 04 h"),
    ],
)
def test_a_length_of_time_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_values_are_written_as_in_a_recipe():
    assert [shown(v) for v in (True, None, 1234, 2e-3, (0.9, 0.99), [], "muon")] == [
        *("true", "not set", "1,234", "0.002", "0.9, 0.99", "none", "muon")
    ]
