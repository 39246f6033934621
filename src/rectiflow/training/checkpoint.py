"""Checkpoints: safetensors and one JSON with their checksums, written atomically, verified on load.

RUN/checkpoints/step-00001234/{model,ema,optimizer}.safetensors, state.json
RUN/checkpoints/best-00001000/{model,ema}.safetensors, state.json: of least validation loss
RUN/checkpoints/averages-00001000/power_0.05.safetensors, ..., state.json
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow.runs import Run, read_json, sync
from rectiflow.training.retention import outdated, thinned_out
from rectiflow.training.settings.sections import RetainSettings

_log = logging.getLogger(__name__)

_NAME = re.compile(r"(step|best|averages)-(\d{8,})")
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything of a run after `step` steps.

    Args:
        step: Finished steps.
        tensors: Groups of named tensors, one file each: `model`, `ema`, `optimizer`.
        state: The rest, JSON values.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def save(run: Run, checkpoint: Checkpoint, retain: RetainSettings) -> Path:
    """Write a checkpoint, then remove those that `retain` lets go.

    It appears under its name only when every byte is on the disk; a failure at any moment leaves
    the earlier ones.
    """
    final = _write(run, f"step-{checkpoint.step:08d}", checkpoint)
    _remove_steps(list_checkpoints(run), lambda steps: outdated(steps, retain))
    return final


def save_best(run: Run, checkpoint: Checkpoint) -> Path:
    """Write the best checkpoint so far as `save` does, then remove those that were it before."""
    final = _write(run, f"best-{checkpoint.step:08d}", checkpoint)
    for other in list_best(run):
        if other != final:
            _remove(other)
    return final


def save_averages(run: Run, checkpoint: Checkpoint, every_steps: int, most: int) -> Path:
    """Write averages of the weights as `save` does, of which `most` at this cadence stay."""
    final = _write(run, f"averages-{checkpoint.step:08d}", checkpoint)
    _remove_steps(list_averages(run), lambda steps: thinned_out(steps, every_steps, most))
    return final


def _write(run: Run, name: str, checkpoint: Checkpoint) -> Path:
    final = run.checkpoints / name
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run)
    temporary = run.checkpoints / f".partial-{final.name}"
    temporary.mkdir()
    try:
        files = {}
        for group, tensors in checkpoint.tensors.items():
            file = temporary / f"{group}.safetensors"
            _write_tensors(tensors, file)
            files[file.name] = _sha256(file)
        state = {"step": checkpoint.step, "files": files, **checkpoint.state}
        state["sha256"] = _digest(state)
        (temporary / _STATE).write_text(json.dumps(state, indent=2, allow_nan=False) + "\n")
        for file in (*temporary.iterdir(), temporary):
            sync(file)
        if final.exists():
            _remove(final)  # averages of the same step again, after a resume
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(run.checkpoints)
    return final


def list_checkpoints(run: Run) -> list[Path]:
    """The finished checkpoints, oldest first; not the best one."""
    return _named(run, "step")


def list_best(run: Run) -> list[Path]:
    """The checkpoint of least validation loss, and before it any that a kill left beside it."""
    return _named(run, "best")


def list_averages(run: Run) -> list[Path]:
    """The averages that were kept, oldest first."""
    return _named(run, "averages")


def _named(run: Run, kind: str) -> list[Path]:
    if not run.checkpoints.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in run.checkpoints.iterdir()]
    found = [(int(match[2]), path) for path, match in matches if match and match[1] == kind]
    return [path for _, path in sorted(found)]


def newest(run: Run) -> Path | None:
    """The last finished checkpoint, None if there is none."""
    return (list_checkpoints(run) or [None])[-1]


def load_newest(run: Run) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; None if there is none at all.

    Damaged ones after it are set aside under a name that hides them, one at a time, and
    told of in the log.

    Raises:
        DataError: If every checkpoint is damaged; all are left as they are.
    """
    damaged: list[tuple[Path, DataError]] = []
    for folder in reversed(list_checkpoints(run)):
        try:
            found = load(folder)
        except DataError as error:
            damaged.append((folder, error))
            continue
        for each, error in damaged:
            _log.warning("%s; set aside as %s, going on from %s", error, _set_aside(each), folder)
        return found
    if damaged:
        told = "; ".join(str(error) for _, error in damaged)
        raise DataError(f"no checkpoint of {run.folder} is whole: {told}")
    return None


def _set_aside(folder: Path) -> Path:
    """Hide a damaged checkpoint; one that was set aside before makes room for it."""
    for before in folder.parent.glob(".damaged-*"):
        shutil.rmtree(before)
    hidden = folder.with_name(f".damaged-{folder.name}")
    os.rename(folder, hidden)
    return hidden


def load(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        DataError: If a file is missing or its bytes are not those that were written.
    """
    try:
        state = read_state(folder)
        names = {Path(name).stem: name for name in state["files"]}
        tensors = {group: load_tensors(folder, name) for group, name in names.items()}
    except (DataError, FileNotFoundError) as error:
        raise DataError(f"checkpoint is damaged: {error}") from error
    rest = {k: v for k, v in state.items() if k not in ("step", "files", "sha256")}
    return Checkpoint(state["step"], tensors, rest)


def load_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """One verified file of a checkpoint, such as `ema.safetensors`."""
    file = verified(folder, name)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise DataError(f"{file} is damaged: {error}") from error


def verified(folder: Path, name: str) -> Path:
    """A file of a checkpoint whose bytes are those that were written; else a `DataError`."""
    file = folder / name
    expected = read_state(folder)["files"].get(name)
    if not file.is_file():
        raise DataError(f"{file} is missing")
    if _sha256(file) != expected:
        raise DataError(f"{file} is damaged: its checksum does not match")
    return file


def remove_best(run: Run) -> None:
    """Delete the checkpoint of least validation loss, if there is one."""
    for folder in list_best(run):
        _remove(folder)


def remove_averages_after(run: Run, step: int) -> None:
    """Delete those that a run which goes on from `step` will come to again."""
    for folder in list_averages(run):
        if int(folder.name.removeprefix("averages-")) > step:
            _remove(folder)


def remove_leftovers(run: Run) -> None:
    """Delete what a killed process left half written or half deleted."""
    if run.checkpoints.is_dir():
        for pattern in (".partial-*", ".old-*"):
            for path in run.checkpoints.glob(pattern):
                shutil.rmtree(path)


def _write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, file)
    except SafetensorError as error:
        # The library wraps the operating system's error; a full disk must be told from a bug.
        match = re.search(r"os error (\d+)", str(error))
        if match:
            raise OSError(int(match[1]), os.strerror(int(match[1])), str(file)) from error
        raise


def _remove_steps(
    folders: Sequence[Path], choose: Callable[[Sequence[int]], Sequence[int]]
) -> None:
    by_step = {int(folder.name.partition("-")[2]): folder for folder in folders}
    for step in choose(list(by_step)):
        _remove(by_step[step])


def _remove(folder: Path) -> None:
    """Delete a checkpoint; it loses its name first, so a kill leaves no half checkpoint."""
    doomed = folder.with_name(f".old-{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def read_state(folder: Path) -> dict[str, Any]:
    """The verified `state.json` of a checkpoint."""
    state = read_json(folder / _STATE)
    if _digest(state) != state.get("sha256"):
        raise DataError(f"{folder / _STATE} is damaged: its checksum does not match")
    return state


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(state: Mapping[str, Any]) -> str:
    content = {name: value for name, value in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
