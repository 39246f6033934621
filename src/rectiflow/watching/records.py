"""Run folders as they are found: finished, running, stopped, diverged, half there or damaged."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rectiflow.errors import DataError
from rectiflow.runs import Run, read_json
from rectiflow.watching.history import History, is_number, read_history

Status = Literal["new", "running", "stopped", "finished", "diverged", "damaged"]

MAX_DEPTH = 4
"""Folders below a given one that are searched for runs."""

QUIET_SECONDS = 300.0
"""A run that wrote nothing for so long, and for five of its own lines, counts as stopped."""

LAST_BYTES = 64 * 1024
"""What a list reads of each metrics.jsonl: a hundred lines, whatever the length of the run."""

_STEP_NAME = re.compile(r"step-(\d{8,})(?:\.png)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What a run's folder says, whatever state it is in.

    Args:
        name: The folder's path from where it was looked for, short and unique.
        run: The folder.
        status: `finished`: the last step is reached. `diverged`: it ended in numbers that went
            wrong. `running`: written to just now. `stopped`: begun, and quiet. `new`: no step yet.
            `damaged`: without a recipe that can be read.
        config: The recipe as plain values; empty if it cannot be read.
        history: What was logged.
        result: What the finished run wrote; empty if it did not.
        total_steps: Of the whole run, None if not known yet.
        checkpoints: Their steps, ascending.
        sheets: Steps of the sheets of pictures, ascending.
        roll_backs: Returns to a checkpoint: `step`, `to_step`, `why`.
        diverged: Why it diverged.
        updated: When something was last written, seconds since 1970.
        problems: What cannot be read, for a person.
    """

    name: str
    run: Run
    status: Status
    config: Mapping[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=History)
    result: Mapping[str, Any] = field(default_factory=dict)
    total_steps: int | None = None
    checkpoints: Sequence[int] = ()
    sheets: Sequence[int] = ()
    roll_backs: Sequence[Mapping[str, Any]] = ()
    diverged: str | None = None
    updated: float = 0.0
    problems: Sequence[str] = ()

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return max(self.history.num_steps, *self.checkpoints, 0, 0)

    def setting(self, path: str, otherwise: Any = None) -> Any:
        """A setting of the recipe by its dotted name; `otherwise` if it is not there."""
        value: Any = self.config
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return otherwise
            value = value[part]
        return value

    @property
    def batch_size(self) -> int | None:
        """Samples of a step."""
        return _whole(self.setting("training.batch_size"))

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, at the pace of the last lines; None if that cannot be told."""
        pace = self.history.recent("step_seconds")
        if self.status != "running" or pace is None or self.total_steps is None:
            return None
        return max(0, self.total_steps - self.step) * pace

    def metric(self, name: str) -> float | None:
        """The last value of a metric, from the lines or what the finished run wrote."""
        value = self.history.last(name)
        if value is None:
            written = self.result.get("metrics")
            value = written.get(name) if isinstance(written, Mapping) else None
        return float(value) if is_number(value) else None


def find_runs(places: Sequence[Path]) -> list[Run]:
    """Runs at and below some folders, in the order of the places, then of their names.

    What lies inside a run (its export, its checkpoints) is no run of its own.

    Raises:
        FileNotFoundError: If a place is not there.
        NotADirectoryError: If it is a file.
    """
    found: dict[Path, Run] = {}
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"no folder at {place}")
        if not place.is_dir():
            raise NotADirectoryError(
                f"{place} is a file; give a run's folder, or one that has some"
            )
        for folder in _run_folders(place, 0):
            found.setdefault(folder.resolve(), Run(folder))
    return list(found.values())


def read_runs(places: Sequence[Path], now: float, last_bytes: int | None = None) -> list[RunRecord]:
    """The records of all runs at and below some folders.

    Args:
        places: Where to look.
        now: The time, seconds since 1970.
        last_bytes: Read no more than this of the end of each metrics.jsonl.
    """
    runs = find_runs(places)
    names = _names(runs, places)
    return [read_run(run, now, name, last_bytes) for run, name in zip(runs, names, strict=True)]


def read_run(run: Run, now: float, name: str, last_bytes: int | None = None) -> RunRecord:
    """The record of one run; see `read_runs`. Never fails on what the folder holds."""
    problems: list[str] = []
    config = _object(run.config_path, problems)
    if config is None and not run.config_path.is_file():
        problems.append("config.json is missing")
    result = _object(run.result_path, problems) or {}
    diverged = _object(run.diverged_path, problems)
    history = read_history(run.metrics_path, last_bytes)
    checkpoints, updated = _steps(run.checkpoints), _newest_time(run)
    is_quiet = now - updated >= max(QUIET_SECONDS, 5 * _line_seconds(history))
    has_begun = bool(history.num_steps or checkpoints)
    return RunRecord(
        name=name,
        run=run,
        status=_status(config, result, diverged, is_quiet, has_begun),
        config=config or {},
        history=history,
        result=result,
        total_steps=_total_steps(config or {}, result, _object(run.pace_path, problems) or {}),
        checkpoints=checkpoints,
        sheets=sheet_steps(run),
        roll_backs=_roll_backs(run, problems),
        diverged=None if diverged is None else str(diverged.get("why", "for an unknown reason")),
        updated=updated,
        problems=(*problems, *history.problems),
    )


def _status(
    config: Mapping[str, Any] | None,
    result: Mapping[str, Any],
    diverged: Mapping[str, Any] | None,
    is_quiet: bool,
    has_begun: bool,
) -> Status:
    if config is None:
        return "damaged"
    if result.get("status") == "finished":
        return "finished"
    if diverged is not None:
        return "diverged"
    if not is_quiet:
        return "running"
    return "stopped" if has_begun else "new"


def _total_steps(
    config: Mapping[str, Any], result: Mapping[str, Any], pace: Mapping[str, Any]
) -> int | None:
    training = config.get("training")
    said = training.get("num_steps") if isinstance(training, Mapping) else None
    known = (_whole(value) for value in (result.get("num_steps"), said, pace.get("num_steps")))
    return next((value for value in known if value is not None), None)


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if _is_run(folder):
            yield folder
            return
        if depth == MAX_DEPTH:
            return
        inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return  # not ours to read
    for name in inside:
        if not name.startswith("."):
            yield from _run_folders(folder / name, depth + 1)


def _is_run(folder: Path) -> bool:
    """A recipe, or what only training writes: exported networks have a config.json as well."""
    run = Run(folder)
    if run.metrics_path.is_file() or run.checkpoints.is_dir():
        return True
    config = _object(run.config_path, [])
    return config is not None and isinstance(config.get("training"), dict)


def _names(runs: Sequence[Run], places: Sequence[Path]) -> list[str]:
    """Paths from the place a run was found at; whole ones where these are not unique."""
    short = []
    for run in runs:
        above = [place for place in places if run.folder.is_relative_to(place)]
        inside = run.folder.relative_to(above[0]) if above else run.folder
        short.append(inside.as_posix() if inside.parts else run.folder.resolve().name)
    return [
        name if short.count(name) == 1 else str(run.folder)
        for name, run in zip(short, runs, strict=True)
    ]


def _object(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """A JSON object; None if it is not there or cannot be read, which is told."""
    try:
        return read_json(path) if path.is_file() else None
    except DataError:
        problems.append(f"{path.name} is damaged")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
    return None


def sheet_steps(run: Run) -> list[int]:
    """Steps at which a sheet of pictures was drawn, ascending."""
    return _steps(run.samples)


def _roll_backs(run: Run, problems: list[str]) -> list[Mapping[str, Any]]:
    taken = (_object(run.roll_backs_path, problems) or {}).get("roll_backs", [])
    return [each for each in taken if isinstance(each, dict)] if isinstance(taken, list) else []


def _steps(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(int(found[1]) for name in names if (found := _STEP_NAME.fullmatch(name)))


def _newest_time(run: Run) -> float:
    paths = (
        *(run.config_path, run.metrics_path, run.result_path, run.diverged_path),
        *(run.checkpoints, run.samples),
    )
    times = [0.0]
    for path in paths:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _line_seconds(history: History) -> float:
    """Usual time between two lines."""
    elapsed = history.curve("elapsed_seconds").values[-20:]
    return float(np.median(np.diff(elapsed))) if len(elapsed) > 1 else 0.0


def _whole(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53
    return value if is_whole else None
