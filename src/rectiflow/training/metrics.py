"""Metrics: means since the last line, and who writes them down (the file, the trackers)."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rectiflow.runs import Run
from rectiflow.training.objectives.base import Terms
from rectiflow.training.trackers import Trackers

NUM_TIME_BINS = 10


class Meter:
    """Sums over the samples and steps since the last line; survives a restart through `state`.

    Sums are float64 and in sample order, so they do not depend on where a run was stopped.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._bin_sums = np.zeros(NUM_TIME_BINS)
        self._bin_counts = np.zeros(NUM_TIME_BINS, dtype=np.int64)

    def add(self, name: str, total: float, count: int = 1) -> None:
        """Add `count` values whose sum is `total`."""
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._counts[name] = self._counts.get(name, 0) + count

    def add_terms(self, terms: Terms) -> None:
        """Add the samples of a microbatch; its terms are on the CPU."""
        for name, values in {"loss": terms.loss, **terms.extra}.items():
            self.add(name, values.double().sum().item(), len(values))
        if terms.t is not None:
            bins = time_bins(terms.t)
            np.add.at(self._bin_sums, bins, terms.loss.double().numpy())
            np.add.at(self._bin_counts, bins, 1)

    def means(self) -> dict[str, Any]:
        """Means of all that was added; a tenth of time without samples is None."""
        means: dict[str, Any] = {n: total / self._counts[n] for n, total in self._sums.items()}
        if self._bin_counts.any():
            means["loss_by_t"] = [
                total / count if count else None
                for total, count in zip(
                    self._bin_sums.tolist(), self._bin_counts.tolist(), strict=True
                )
            ]
        return means

    def state(self) -> dict[str, Any]:
        """JSON values; floats survive JSON bit for bit."""
        return {
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "bin_sums": self._bin_sums.tolist(),
            "bin_counts": self._bin_counts.tolist(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._bin_sums = np.array(state["bin_sums"], dtype=np.float64)
        self._bin_counts = np.array(state["bin_counts"], dtype=np.int64)


def time_bins(t: torch.Tensor) -> np.ndarray:
    """Tenth of [0, 1] that each time is in, 0..9."""
    return (t.double().numpy() * NUM_TIME_BINS).astype(np.int64).clip(0, NUM_TIME_BINS - 1)


class MetricsLog:
    """Writes a line to metrics.jsonl and tells the trackers of the same numbers.

    Args:
        run: Where.
        step: Finished steps; later lines of an earlier attempt are cut off.
        trackers: As `training.trackers` has them.
    """

    def __init__(self, run: Run, step: int, trackers: Sequence[str] = ("tensorboard",)) -> None:
        # Nothing precedes the first step, so a fresh start drops all lines.
        run.cut_metrics(step if step else -1)
        self._run = run
        self._trackers = Trackers(trackers, run, step)
        self._stream = run.metrics_path.open("ab")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one line; the sheet of pictures of that step, if there is one, is told of too."""
        line = json.dumps({"step": step, **values}, allow_nan=False)
        self._stream.write(line.encode() + b"\n")
        self._stream.flush()
        self._trackers.log(step, values)
        sheet = self._run.sheet_path(step)
        if sheet.is_file():
            self._trackers.show(step, sheet)

    def sync(self) -> None:
        """Put the lines on the disk, before a checkpoint that relies on them."""
        os.fsync(self._stream.fileno())
        self._trackers.sync()

    def close(self) -> None:
        self._stream.close()
        self._trackers.close()


class Stopwatch:
    """Seconds spent in named phases of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Book the time since the last lap on `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now
