"""What the status line says of long work: how far, how fast, how well, how much longer."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from rectiflow.pages.words import duration

WINDOW_SECONDS = 60.0
"""The pace is that of the last minute: neither slow starts nor an earlier load enter it."""

MIN_MARKS = 4
"""What takes longer than the window is averaged over so many marks at least."""

_LABELS = {"val_loss_ema": "validation"}
_RATE = "samples_per_second"


class Pace:
    """How fast work goes at present.

    Args:
        now: The clock, seconds.
        done: What was done before, by an earlier process for example.
    """

    def __init__(self, now: float, done: int) -> None:
        self._marks = deque([(now, done)])

    def add(self, now: float, done: int) -> None:
        """Note that so much is done."""
        if now - self._marks[-1][0] >= WINDOW_SECONDS / 60 or len(self._marks) == 1:
            self._marks.append((now, done))
        while len(self._marks) > MIN_MARKS and now - self._marks[1][0] > WINDOW_SECONDS:
            self._marks.popleft()

    def per_second(self, now: float, done: int) -> float:
        """Done in a second; 0 while that cannot be told."""
        then, before = self._marks[0]
        return (done - before) / (now - then) if now > then else 0.0


def status_text(
    done: int, total: int | None, per_second: float, facts: Mapping[str, Any] | None = None
) -> str:
    """The line: "1,200/10,000  141 samples/s  36 min 40 s left  loss 0.1872".

    Args:
        done: How much is done.
        total: Of how much, None while that is not known.
        per_second: The pace; 0 if it is not known.
        facts: Numbers beside it; `samples_per_second` stands in place of the pace.
    """
    numbers = {
        name: value
        for name, value in (facts or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    parts = [f"{done:,}/{'?' if total is None else f'{total:,}'}"]
    if _RATE in numbers:
        parts.append(f"{numbers.pop(_RATE):.3g} samples/s")
    elif per_second > 0:
        parts.append(f"{per_second:.3g}/s" if per_second >= 1 else f"{1 / per_second:.3g} s each")
    if total is not None and per_second > 0 and done < total:
        parts.append(f"{duration((total - done) / per_second)} left")
    # Last, because a narrow terminal cuts the end.
    parts += [f"{_LABELS.get(name, name)} {value:.4g}" for name, value in numbers.items()]
    return "  ".join(parts)
