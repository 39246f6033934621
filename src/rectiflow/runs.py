"""A run's folder, the unit of exchange: studies, plots and reports read it, nothing greps a log.

RUN/config.json     the resolved recipe
RUN/pace.json       number of steps that `training.minutes` became, measured once
RUN/data.json       hash of the pictures, captions and encoders it began with
RUN/metrics.jsonl   one object per logged step; clock fields end in `_seconds` or `_per_second`
RUN/result.json     written when the last step is reached
RUN/diverged.json   step and reason, if a loss or gradient became inf or nan, or a spike
RUN/roll_backs.json returns to a checkpoint after such a step, if `training.guard` asks for them
RUN/checkpoints/    step-00001000/ ...
RUN/samples/  RUN/export/  RUN/tensorboard/
"""

import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectiflow.errors import DataError

CLOCK_SUFFIXES = ("_seconds", "_per_second")


@dataclass(frozen=True, slots=True)
class Run:
    """Paths and small files of one run.

    Args:
        folder: The run's folder; created by `create`, never by reading.
    """

    folder: Path

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    @property
    def pace_path(self) -> Path:
        return self.folder / "pace.json"

    @property
    def data_path(self) -> Path:
        return self.folder / "data.json"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"

    @property
    def diverged_path(self) -> Path:
        return self.folder / "diverged.json"

    @property
    def roll_backs_path(self) -> Path:
        return self.folder / "roll_backs.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    def sheet_path(self, step: int) -> Path:
        """The sheet of pictures that was drawn at a step."""
        return self.samples / f"step-{step:08d}.png"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    def create(self) -> "Run":
        """Make the folder if it is not there; an existing file of that name is refused."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"run must be a folder, {self.folder} is a file")
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def config(self) -> dict[str, Any]:
        """The resolved recipe of this run.

        Raises:
            FileNotFoundError: If the folder is not a run.
        """
        if not self.config_path.is_file():
            raise FileNotFoundError(f"{self.folder} is not a run folder: it has no config.json")
        return read_json(self.config_path)

    def result(self) -> dict[str, Any] | None:
        """What the finished run wrote, None while it is unfinished."""
        return read_json(self.result_path) if self.result_path.is_file() else None

    def diverged(self) -> dict[str, Any] | None:
        """At which step and why the run came to an end of no finite numbers; None if it did not."""
        return read_json(self.diverged_path) if self.diverged_path.is_file() else None

    def pace(self) -> dict[str, Any] | None:
        """The number of steps that `training.minutes` became, None before it was measured."""
        return read_json(self.pace_path) if self.pace_path.is_file() else None

    def metrics(self) -> list[dict[str, Any]]:
        """All logged lines, oldest first; a last line cut short by a kill is left out."""
        return [row for row, _ in self._rows()]

    def cut_metrics(self, last_step: int) -> None:
        """Keep the lines of steps <= `last_step`, atomically; -1 empties the file."""
        if self.metrics_path.exists():
            kept = [line for row, line in self._rows() if row["step"] <= last_step]
            write_bytes(self.metrics_path, b"".join(kept))

    def _rows(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        if not self.metrics_path.exists():
            return
        lines = self.metrics_path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return  # the process was killed while it wrote
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{self.metrics_path} line {number} is damaged: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise DataError(f"{self.metrics_path} line {number} is damaged: it has no step")
            yield row, line


def is_clock_field(name: str) -> bool:
    """Whether a metric tells time and so differs between two otherwise equal runs."""
    return name.endswith(CLOCK_SUFFIXES)


def without_clock(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a metrics line that is a function of the recipe and the step."""
    return {name: value for name, value in row.items() if not is_clock_field(name)}


def read_json(path: Path) -> dict[str, Any]:
    """Read an object; damage is a `DataError` that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter of brackets without end
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: expected an object, found {type(value).__name__}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object atomically; nan and inf, which JSON does not have, are refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name beside `path`; on success it is synced and takes its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which is absent or empty; on success it takes its place.

    By then every file in it is on the disk. What killed processes left beside `path` goes first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        shutil.rmtree(leftover)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        yield temporary
        for inside in (*temporary.rglob("*"), temporary):
            sync(inside)
        if path.exists():
            path.rmdir()  # not every system renames onto a folder
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    # Windows cannot open folders; there the rename alone has to do.
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
