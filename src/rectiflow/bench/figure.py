"""A measured figure and the bar it stands against."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its unit, and a bar that it should not cross.

    Args:
        value: The number reported.
        unit: What it counts, such as "s" or "1/s"; "" for a pure number.
        at_most: The bar, if smaller is better.
        at_least: The bar, if larger is better.
        repeats: The values that `value` is the median of, oldest first.
        note: What a reader must know to read it rightly.

    Raises:
        ValueError: If the number is not finite or there are two bars.
    """

    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    repeats: tuple[float, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a figure must be finite, got {self.value}")
        if self.at_most is not None and self.at_least is not None:
            raise ValueError("a figure has one bar, at_most or at_least")

    @property
    def bar(self) -> str | None:
        """The bar as text, such as "<= 1.2"; None if there is none."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return None if self.at_least is None else f">= {self.at_least:g}"

    @property
    def is_met(self) -> bool | None:
        """Whether the number is on the right side of its bar, which itself is; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def row(self) -> dict[str, Any]:
        """The figure as JSON values."""
        row = {"value": self.value, "unit": self.unit, "bar": self.bar, "met": self.is_met}
        if self.repeats:
            row["repeats"] = list(self.repeats)
        return row | ({"note": self.note} if self.note else {})


def median_figure(repeats: Sequence[float], unit: str, **settings: Any) -> Figure:
    """The figure of repeated measurements: their median, which one slow repeat does not move."""
    if not repeats:
        raise ValueError("a figure needs at least one measurement, got none")
    value = statistics.median(repeats)
    return Figure(value=value, unit=unit, repeats=tuple(map(float, repeats)), **settings)
