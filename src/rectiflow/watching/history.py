"""What a run logged, as curves: read from a file that may be half written, damaged or huge."""

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

RECENT_LINES = 9
"""Logged lines that a present value is averaged over: one alone is noisy."""

MAX_POINTS = 800
"""Of a drawn curve; more than a chart has pixels for."""


class Curve(NamedTuple):
    """A metric over training; `values` has shape (lines,), or (lines, entries) for a list.

    Both are float64; steps increase, and an entry without samples is nan.
    """

    steps: np.ndarray
    values: np.ndarray


EMPTY = Curve(np.zeros(0), np.zeros(0))


class Least(NamedTuple):
    """The least value of a metric and the step it was logged at."""

    value: float
    step: int


@dataclass(frozen=True, slots=True)
class History:
    """Curves of a run by the names of its metrics.

    Args:
        curves: Of numbers.
        tables: Of lists, such as the loss per tenth of time.
        num_steps: Step of the last line, 0 if there is none.
        problems: What was wrong with the file, for a person.
        is_whole: Whether the file was read from its beginning.
    """

    curves: Mapping[str, Curve] = field(default_factory=dict)
    tables: Mapping[str, Curve] = field(default_factory=dict)
    num_steps: int = 0
    problems: tuple[str, ...] = ()
    is_whole: bool = True

    def curve(self, name: str) -> Curve:
        """A metric at the lines that have it."""
        return self.curves.get(name, EMPTY)

    def table(self, name: str) -> Curve:
        """A list of numbers at the lines that have it."""
        return self.tables.get(name, Curve(np.zeros(0), np.zeros((0, 0))))

    def last(self, name: str) -> float | None:
        """The last value; None if there is none."""
        values = self.curve(name).values
        return float(values[-1]) if len(values) else None

    def recent(self, name: str) -> float | None:
        """Mean of the last `RECENT_LINES` values."""
        values = self.curve(name).values
        return float(values[-RECENT_LINES:].mean()) if len(values) else None

    def least(self, name: str) -> Least | None:
        """The least value; None if there is none, or not all have been read."""
        steps, values = self.curve(name)
        if not len(values) or not self.is_whole:
            return None
        k = int(values.argmin())
        return Least(float(values[k]), int(steps[k]))


def read_history(path: Path, last_bytes: int | None = None) -> History:
    """Read a metrics.jsonl. Nothing in it is an error: what cannot be read is passed over and told.

    Args:
        path: The file; it need not be there.
        last_bytes: Read no more than this of its end.
    """
    problems: list[str] = []
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            skipped = max(0, size - last_bytes) if last_bytes is not None else 0
            stream.seek(skipped)
            if skipped:
                stream.readline()  # the rest of a line
            history = history_of(_rows(stream, problems))
    except FileNotFoundError:
        return History()
    except OSError as error:
        return History(problems=(f"{path.name} cannot be read: {error.strerror}",))
    return replace(history, problems=tuple(problems), is_whole=not skipped)


def history_of(rows: Iterable[Mapping[str, Any]]) -> History:
    """Curves of logged lines. A line takes the place of earlier ones of its step or a later one."""
    numbers, lists = _Columns(), _Columns()
    last = -1
    for row in rows:
        step = row["step"]
        if step <= last:
            numbers.cut(step)
            lists.cut(step)
        last = step
        for name, value in row.items():
            if name == "step":
                continue
            if is_number(value):
                numbers.add(name, step, value)
            elif isinstance(value, list) and value and all(map(_is_entry, value)):
                lists.add(name, step, [math.nan if v is None else v for v in value])
    return History(numbers.curves(), lists.curves(), max(last, 0))


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean; at the ends over as many values as there are on both sides."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), width // 2)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def thinned(curve: Curve, num: int = MAX_POINTS) -> Curve:
    """At most `num` points: means over equal parts, each at the last step of its part."""
    if len(curve.steps) <= num:
        return curve
    bounds = np.linspace(0, len(curve.steps), num + 1).astype(int)
    sums = np.add.reduceat(curve.values, bounds[:-1])
    return Curve(curve.steps[bounds[1:] - 1], sums / np.diff(bounds))


def losses_by_stage(history: History, num_stages: int) -> list[tuple[str, np.ndarray]]:
    """Loss of every tenth of time, averaged over equal parts of the training.

    Returns:
        (steps of the part, shape (10,) losses), oldest first; nan where no sample fell.
    """
    steps, table = history.table("loss_by_t")
    stages = []
    start = 0
    for part in np.array_split(np.arange(len(steps)), min(num_stages, len(steps)) or 1):
        if len(part):
            last = int(steps[part[-1]])
            stages.append((f"steps {start + 1:,}-{last:,}", means(table[part])))
            start = last
    return stages


def means(table: np.ndarray) -> np.ndarray:
    """Means of the columns over their finite entries; nan where there are none."""
    present = np.isfinite(table)
    sums = np.where(present, table, 0.0).sum(0)
    counts = present.sum(0)
    return np.divide(sums, counts, out=np.full(table.shape[1], np.nan), where=counts > 0)


class _Columns:
    """Steps and values by name, while they are read."""

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[Any]] = {}

    def add(self, name: str, step: int, value: Any) -> None:
        values = self._values.setdefault(name, [])
        if isinstance(value, list) and values and len(values[-1]) != len(value):
            self._steps[name], self._values[name] = [], []  # another meaning from here on
        self._steps.setdefault(name, []).append(step)
        self._values[name].append(value)

    def cut(self, step: int) -> None:
        for name, steps in self._steps.items():
            keep = bisect_left(steps, step)
            del steps[keep:], self._values[name][keep:]

    def curves(self) -> dict[str, Curve]:
        return {
            name: Curve(np.asarray(steps, np.float64), np.asarray(self._values[name], np.float64))
            for name, steps in self._steps.items()
            if steps
        }


def _rows(stream: Iterable[bytes], problems: list[str]) -> Iterable[Mapping[str, Any]]:
    damaged = 0
    for line in stream:
        if not line.endswith(b"\n"):
            break  # being written, or cut short by a kill
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        step = row.get("step") if isinstance(row, dict) else None
        if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53:
            assert isinstance(row, dict)
            yield row
        else:
            damaged += 1
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        problems.append(f"metrics.jsonl: {lines} damaged and passed over")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value of a JSON file is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # neither inf, nor nan, nor an integer that no float can hold


def _is_entry(value: Any) -> bool:
    return value is None or is_number(value)
