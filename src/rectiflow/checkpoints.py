"""The checkpoints of a run, for who reads them: which there are, whether they are whole, weights.

RUN/checkpoints/step-00001234/{model,ema,optimizer,ema_0.99,...}/shard-00001-...safetensors
RUN/checkpoints/step-00001234/state.json   the rest, and the SHA-256 of every file
RUN/checkpoints/best-00001000/             model, ema: of least validation loss
RUN/checkpoints/averages-00001000/         power_0.05, ...: to make averages from afterwards

A group of tensors is a folder with one file for each process that wrote; `training.checkpoint`
writes them.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.errors import DataError
from rectiflow.runs import Run, read_json
from rectiflow.sealing import own_checksum, sha256

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

STATE = "state.json"
_NAME = re.compile(r"(step|best|averages)-(\d{8,})")


def list_checkpoints(run: Run) -> list[Path]:
    """The finished checkpoints, oldest first; not the best one."""
    return _named(run, "step")


def list_best(run: Run) -> list[Path]:
    """The checkpoint of least validation loss, and before it any that a kill left beside it."""
    return _named(run, "best")


def list_averages(run: Run) -> list[Path]:
    """The averages that were kept, oldest first."""
    return _named(run, "averages")


def newest(run: Run) -> Path | None:
    """The last finished checkpoint, None if there is none."""
    return (list_checkpoints(run) or [None])[-1]


def newest_intact(run: Run, group: str) -> Path | None:
    """The last finished checkpoint with this group of tensors whole; None if there is none at all.

    Damaged ones after it are told of in the log, and left as they are.

    Args:
        run: Its folder, which may be in training.
        group: Such as "ema", the averaged weights.

    Raises:
        DataError: If this group is damaged in every checkpoint.
        ValueError: If a checkpoint has no such group.
    """
    damaged: list[str] = []
    for folder in reversed(list_checkpoints(run)):
        try:
            verify(folder, files_of(folder, group))
        except (DataError, FileNotFoundError) as error:
            if folder.exists():  # else it was removed meanwhile, as `training.retain` has it
                damaged.append(str(error))
            continue
        for why in damaged:
            _log.warning("%s; taking the checkpoint before, %s", why, folder)
        return folder
    if damaged:
        raise DataError(f"no checkpoint of {run.folder} is whole: {'; '.join(damaged)}")
    return None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of a run's checkpoints, by its name and what it holds."""
    return bool(_NAME.fullmatch(folder.name)) and (folder / STATE).is_file()


def step_of(folder: Path) -> int:
    """Finished steps of a checkpoint, by its name."""
    return int(folder.name.partition("-")[2])


def read_state(folder: Path) -> dict[str, Any]:
    """The verified `state.json` of a checkpoint: `step`, `groups`, `files` and what else it has.

    Raises:
        DataError: If it is missing or damaged.
    """
    if not (folder / STATE).is_file():
        raise DataError(f"{folder / STATE} is missing")
    state = read_json(folder / STATE)
    checksum = state.pop("sha256", None)
    if own_checksum(state) != checksum or not isinstance(state.get("files"), dict):
        raise DataError(f"{folder / STATE} is damaged: its checksum does not match")
    return state


def state_text(state: Mapping[str, Any]) -> str:
    """What `read_state` reads: JSON values, and a checksum over them."""
    sealed = {**state, "sha256": own_checksum(dict(state))}
    return json.dumps(sealed, indent=2, allow_nan=False) + "\n"


def verify(folder: Path, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Compare the files of a checkpoint with the checksums that were written; its `state.json`.

    Args:
        folder: The checkpoint's.
        names: Of the files to compare, relative to it; all by default.

    Raises:
        DataError: If a file is missing, differs by as little as a bit, or does not belong there.
    """
    state = read_state(folder)
    found = {file.relative_to(folder).as_posix() for file in folder.glob("*/*")}
    for name in sorted(found ^ state["files"].keys()):
        raise DataError(
            f"{folder / name} {'does not belong there' if name in found else 'is missing'}"
        )
    for name in state["files"] if names is None else names:
        if sha256(folder / name) != state["files"][name]:
            raise DataError(f"{folder / name} is damaged: its checksum does not match")
    return state


def load_group(folder: Path, group: str) -> dict[str, "Tensor"]:
    """The tensors of one group of a checkpoint, whole and verified, on the host.

    Args:
        folder: The checkpoint's.
        group: Such as "ema", the averaged weights.

    Raises:
        ValueError: If the checkpoint has no such group.
        DataError: If a file is missing or damaged.
    """
    from rectiflow import tensor_folder

    verify(folder, files_of(folder, group))
    return tensor_folder.read(folder / group)


def group_checksum(folder: Path, group: str) -> str:
    """SHA-256 that tells the tensors of one group of a checkpoint, as they were written, apart."""
    state = read_state(folder)
    told = json.dumps([state["files"][name] for name in files_of(folder, group)])
    return hashlib.sha256(told.encode()).hexdigest()


def files_of(folder: Path, group: str) -> list[str]:
    """Names of a group's files, relative to the checkpoint."""
    state = read_state(folder)
    if group not in state["groups"]:
        known = ", ".join(state["groups"])
        raise ValueError(f"{folder} has no tensors named {group}; it has {known}")
    return sorted(name for name in state["files"] if name.partition("/")[0] == group)


def _named(run: Run, kind: str) -> list[Path]:
    if not run.checkpoints.is_dir():
        return []
    matches = [(path, _NAME.fullmatch(path.name)) for path in run.checkpoints.iterdir()]
    found = [(int(match[2]), path) for path, match in matches if match and match[1] == kind]
    return [path for _, path in sorted(found)]
