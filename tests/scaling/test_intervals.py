import math
import statistics

import numpy as np
import pytest

from rectiflow.scaling.intervals import Estimate, estimate, paired_difference

# Quantiles of Student's t at 97.5 %, from printed tables.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 9: 2.262}


@pytest.mark.parametrize("degrees", PRINTED)
def test_the_interval_is_the_printed_quantile_times_the_standard_error(degrees):
    values = [math.sin(k) for k in range(degrees + 1)]
    found = estimate(values)
    error = statistics.stdev(values) / math.sqrt(degrees + 1)
    assert found.mean == pytest.approx(sum(values) / (degrees + 1))
    assert found.half_width == pytest.approx(PRINTED[degrees] * error, rel=2e-4)
    assert found.num == degrees + 1


def test_by_hand():
    """1, 2, 3: s = 1, so the half width is 4.303 / sqrt(3)."""
    assert estimate([1, 2, 3]).half_width == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_it_covers_the_truth_nineteen_times_in_twenty():
    draws = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3))
    hits = [
        abs(e.mean - 5.0) <= (e.half_width or 0) for e in (estimate(row.tolist()) for row in draws)
    ]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.012)


def test_one_run_has_no_interval_and_none_no_mean():
    assert estimate([0.7]) == Estimate(0.7, None, 1)
    assert not estimate([0.7]).excludes_zero
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_pairs_take_out_what_seeds_have_in_common():
    """The seeds differ by 10, the variants by 1.0 ± 0.1: only pairs can tell."""
    reference = {0: 10.0, 1: 20.0, 2: 30.0}
    better = {2: 29.1, 1: 19.0, 0: 8.9}
    found = paired_difference(better, reference)
    assert found.mean == pytest.approx(-1.0)
    assert found.half_width == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert found.excludes_zero
    assert not estimate(list(better.values())).half_width < 10


def test_only_seeds_in_common_are_compared():
    found = paired_difference({0: 1.0, 5: 100.0}, {0: 3.0, 1: 7.0})
    assert found == Estimate(-2.0, None, 1)
    assert paired_difference({4: 1.0}, {0: 3.0}) is None


def test_an_interval_that_touches_zero_does_not_exclude_it():
    assert not Estimate(0.5, 0.5, 3).excludes_zero
    assert Estimate(-0.5, 0.4, 3).excludes_zero
