"""Means with Student's t intervals: what a few seeds can say."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import stdtrit

COVERAGE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs.

    Args:
        mean: Of the values.
        half_width: Half of the 95 % t interval around it; None of fewer than two values.
        num: Values.
    """

    mean: float
    half_width: float | None
    num: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is there and holds no 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of independent values, t quantile of n - 1 degrees times s / sqrt(n).

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("an estimate needs at least one value, got none")
    num, mean = len(values), statistics.fmean(values)
    if num < 2:
        return Estimate(mean, None, num)
    quantile = float(stdtrit(num - 1, (1 + COVERAGE) / 2))
    return Estimate(mean, quantile * statistics.stdev(values) / num**0.5, num)


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> Estimate | None:
    """Estimate of values minus reference, seed by seed; None if they have no seed in common.

    Runs of one seed share the order of data, the times and the noise of training and of validation,
    so what these do to both cancels.
    """
    common = sorted(values.keys() & reference.keys())
    return estimate([values[seed] - reference[seed] for seed in common]) if common else None


def shown(value: Estimate, digits: int, signed: bool = False) -> str:
    """An estimate as tables write it; without an interval, of one run, the value alone."""
    sign = "+" if signed else ""
    text = f"{value.mean:{sign}.{digits}f}"
    return text if value.half_width is None else f"{text} ± {value.half_width:.{digits}f}"
