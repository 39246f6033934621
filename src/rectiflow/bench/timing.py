"""Stopwatches: rates of work, and two things compared fairly."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

Clock = Callable[[], float]

INSIDE = ("forward_seconds", "backward_seconds", "optimizer_seconds")
"""Phases of a training step that are the work itself."""


def rates(
    work: Callable[[int], int], num_repeats: int, clock: Clock = time.perf_counter
) -> list[float]:
    """Things done per second, one rate per repeat.

    Args:
        work: Called with 0, 1, ... and does a batch of things; returns how many.
        num_repeats: How often it counts. It is called once more before that, to warm up.
        clock: Seconds.
    """
    work(0)
    measured = []
    for repeat in range(1, num_repeats + 1):
        started = clock()
        num = work(repeat)
        measured.append(num / (clock() - started))
    return measured


def pairs(
    first: Callable[[], float], second: Callable[[], float], num_repeats: int
) -> list[tuple[float, float]]:
    """Measure two things in turn; who goes first alternates, so that a drift favours neither."""
    measured = []
    for repeat in range(num_repeats):
        if repeat % 2 == 0:
            a, b = first(), second()
        else:
            b, a = second(), first()
        measured.append((a, b))
    return measured


def ratios(measured: Sequence[tuple[float, float]]) -> list[float]:
    """Second over first of every pair: what slowed both of a pair cancels."""
    return [second / first for first, second in measured]


def share_outside(row: Mapping[str, float]) -> float:
    """Share of a training step outside forward, backward and optimizer, by its own stopwatch."""
    return 1 - sum(row[name] for name in INSIDE) / row["step_seconds"]


def share_outside_loop(rows: Sequence[Mapping[str, float]]) -> float:
    """The same share of the loop's wall time, logging and progress included.

    Args:
        rows: Lines of metrics.jsonl without validation, pictures or checkpoints between them. A
            line's phases are means over the steps since the line before; its `elapsed_seconds`
            end with the step before its own, so with many steps the two cover nearly the same.

    Raises:
        ValueError: If there are fewer than two lines.
    """
    if len(rows) < 2:
        raise ValueError(f"the wall time of steps lies between two lines, got {len(rows)}")
    inside = sum(
        (row["step"] - before["step"]) * sum(row[name] for name in INSIDE)
        for before, row in pairwise(rows)
    )
    return 1 - inside / (rows[-1]["elapsed_seconds"] - rows[0]["elapsed_seconds"])
