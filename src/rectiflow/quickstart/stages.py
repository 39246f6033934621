"""How long the stages of the quickstart took, over all calls that it needed."""

import time
from pathlib import Path
from typing import Any

from rectiflow.jobs.job import Progress
from rectiflow.runs import read_json, write_json

REPEATED = ("drawing", "scoring this run", "scoring reference")
"""Stages that every call does anew; the time of the others adds up when a run is resumed."""


class Stages:
    """A progress that also books the time between its calls on the stage they name.

    Args:
        progress: Told everything that this is told.
        file: Keeps the seconds of earlier calls.
    """

    def __init__(self, progress: Progress, file: Path) -> None:
        self._progress = progress
        self._file = file
        self._stage = ""
        self._since = time.monotonic()
        self.seconds: dict[str, float] = {}
        if file.is_file():
            self.seconds = {k: float(v) for k, v in read_json(file).items() if k not in REPEATED}

    def begin(self, stage: str) -> None:
        """Book the time since the last booking on the stage that ends here."""
        now = time.monotonic()
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now

    def __call__(self, stage: str, done: int, total: int | None, facts: Any) -> None:
        """Pass a report on; a new name begins a stage."""
        if stage != self._stage:
            self.begin(stage)
        self._progress(stage, done, total, facts)

    def save(self) -> None:
        """End the stage and keep all seconds for later calls."""
        self.begin("")
        write_json(self._file, self.seconds)
