"""Checkpoints of a run: written by all its processes together, atomically; verified when read.

Their form is told in `rectiflow.checkpoints`, which lists and reads them.
"""

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from rectiflow import tensor_folder
from rectiflow.checkpoints import (
    STATE,
    list_averages,
    list_best,
    list_checkpoints,
    load_group,
    read_state,
    state_text,
    step_of,
    verify,
)
from rectiflow.errors import DataError
from rectiflow.runs import Run, sync
from rectiflow.sealing import sha256
from rectiflow.tensor_folder import Snapshot
from rectiflow.training.ema import refuse_misfit
from rectiflow.training.ranks import ALONE, Ranks, portable
from rectiflow.training.retention import outdated, thinned_out
from rectiflow.training.settings.sections import RetainSettings
from rectiflow.training.settings.training import TrainingSettings

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything of a run after `step` steps.

    Args:
        step: Finished steps.
        tensors: Groups of named tensors: `model`, `ema`, `optimizer`. To be written, whole
            tensors, the same in every process, or DTensors.
        state: The rest, JSON values, the same in every process.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]

    def frozen(self, ranks: Ranks = ALONE, is_copied: bool = False) -> "Frozen":
        """It as it is now, ready to be written; with copies, also while training goes on."""
        groups = {
            name: Snapshot(each, is_copied, ranks.rank, ranks.num)
            for name, each in self.tensors.items()
        }
        return Frozen(self.step, groups, self.state)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A checkpoint that is ready to be written: what falls to this process of its tensors."""

    step: int
    groups: Mapping[str, Snapshot]
    state: Mapping[str, Any]


def save(
    run: Run, checkpoint: Checkpoint | Frozen, retain: RetainSettings, ranks: Ranks = ALONE
) -> Path:
    """Write a checkpoint, then remove those that `retain` lets go.

    All processes call it. It appears under its name only when every byte of every process is on
    the disk; a failure at any moment leaves the earlier ones, and is raised in all processes.
    """
    final = run.checkpoints / f"step-{checkpoint.step:08d}"

    def clear() -> None:
        _remove_steps(list_checkpoints(run), lambda steps: outdated(steps, retain))

    return _write(final, checkpoint, clear, ranks)


def save_best(run: Run, checkpoint: Checkpoint | Frozen, ranks: Ranks = ALONE) -> Path:
    """Write the best checkpoint so far as `save` does, then remove those that were it before."""
    final = run.checkpoints / f"best-{checkpoint.step:08d}"
    return _write(final, checkpoint, lambda: remove_best(run, but=final), ranks)


def save_averages(
    run: Run, checkpoint: Checkpoint | Frozen, every_steps: int, most: int, ranks: Ranks = ALONE
) -> Path:
    """Write averages of the weights as `save` does, of which `most` at this cadence stay."""
    final = run.checkpoints / f"averages-{checkpoint.step:08d}"

    def clear() -> None:
        _remove_steps(list_averages(run), lambda steps: thinned_out(steps, every_steps, most))

    return _write(final, checkpoint, clear, ranks)


def _write(
    final: Path, checkpoint: Checkpoint | Frozen, clear: Callable[[], None], ranks: Ranks
) -> Path:
    """Write under a temporary name, publish, and then `clear` what it makes superfluous."""
    frozen = checkpoint if isinstance(checkpoint, Frozen) else checkpoint.frozen(ranks)
    # The thread of the writer must not meet the loop's words.
    writers = dataclasses.replace(ranks, host_group=ranks.write_group)
    temporary = final.with_name(f".partial-{final.name}")

    def prepare() -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(final.parent)
        temporary.mkdir()

    def publish() -> None:
        state = {"step": frozen.step, "groups": list(frozen.groups), "files": files}
        text = state_text({**state, **frozen.state})
        (temporary / STATE).write_text(text, encoding="utf-8")
        for path in (temporary / STATE, *(temporary / name for name in frozen.groups), temporary):
            sync(path)
        if final.exists():
            _remove(final)  # of the same step again, after a resume
        os.rename(temporary, final)
        sync(final.parent)
        clear()

    try:
        _together(writers, prepare if ranks.is_first else None)
        for name, snapshot in frozen.groups.items():
            tensor_folder.write(temporary / name, snapshot, ranks.write_group)
        parts = _together(writers, lambda: _own_checksums(temporary, list(frozen.groups), ranks))
        files = {name: value for part in parts for name, value in sorted((part or {}).items())}
        _together(writers, publish if ranks.is_first else None)
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _together(ranks: Ranks, act: Callable[[], T] | None) -> list[T | None]:
    """What `act` gives in every process; what goes wrong in one is raised in all."""
    if ranks.is_alone:
        return [act() if act else None]
    mine: tuple[T | None, Exception | None] = (None, None)
    try:
        mine = (act() if act else None, None)
    except Exception as error:
        mine = (None, portable(error))
    outcomes = ranks.gather(mine)
    for rank, (_, error) in enumerate(outcomes):
        if error is not None:
            error.add_note(f"in process {rank} of those that share the checkpoint")
            raise error
    return [value for value, _ in outcomes]


def _own_checksums(folder: Path, groups: Sequence[str], ranks: Ranks) -> dict[str, str]:
    found = [tensor_folder.own_file(folder / group, ranks.rank) for group in groups]
    files = [file for file in found if file]
    for file in files:
        sync(file)  # torch does before its last bytes have left the buffer
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files}


def newest_whole(run: Run, ranks: Ranks = ALONE) -> Path | None:
    """The newest checkpoint that is whole; None if there is none at all. All processes call it.

    Damaged ones after it are set aside under a name that hides them, one at a time, and
    told of in the log.

    Raises:
        DataError: If every checkpoint is damaged; all are left as they are.
    """
    damaged: list[tuple[Path, str]] = []
    for folder in reversed(ranks.first(list_checkpoints(run))):
        if why := _damage(folder, ranks):
            damaged.append((folder, why))
            continue
        if ranks.is_first:
            for each, why in damaged:
                _log.warning("%s; set aside as %s, going on from %s", why, set_aside(each), folder)
        return folder
    if damaged:
        raise DataError(
            f"no checkpoint of {run.folder} is whole: {'; '.join(why for _, why in damaged)}"
        )
    return None


def _damage(folder: Path, ranks: Ranks) -> str | None:
    """What is wrong with a checkpoint, if anything; every process reads a part of the files."""
    try:
        verify(folder, ranks.share(sorted(read_state(folder)["files"])))
        why = None
    except (DataError, FileNotFoundError) as error:
        why = f"checkpoint is damaged: {error}"
    return next((told for told in ranks.gather(why) if told), None)


def set_aside(folder: Path) -> Path:
    """Hide a damaged checkpoint; one that was set aside before makes room for it."""
    for before in folder.parent.glob(".damaged-*"):
        shutil.rmtree(before)
    hidden = folder.with_name(f".damaged-{folder.name}")
    os.rename(folder, hidden)
    return hidden


def load(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint, its tensors whole, in one process.

    Raises:
        DataError: If a file is missing or its bytes are not those that were written.
    """
    try:
        state = verify(folder)
        tensors = {group: load_group(folder, group) for group in state["groups"]}
    except (DataError, FileNotFoundError) as error:
        raise DataError(f"checkpoint is damaged: {error}") from error
    return Checkpoint(state["step"], tensors, rest_of(state))


def rest_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a `state.json` says beside step and files: the `state` of a `Checkpoint`."""
    return {k: v for k, v in state.items() if k not in ("step", "groups", "files")}


def load_into(
    folder: Path, groups: Mapping[str, Mapping[str, Tensor]], ranks: Ranks = ALONE
) -> None:
    """Copy tensors of a checkpoint that is known to be whole into those given, in place.

    All processes call it. It does not matter how many processes wrote it, or how the tensors
    were split among them.

    Args:
        folder: The checkpoint's, as `newest_whole` found it.
        groups: Whole tensors or DTensors by name, by group.
        ranks: The processes that read together.

    Raises:
        ValueError: If names or shapes differ from those that were saved; the first is named.
    """
    for group, targets in groups.items():
        saved = {name: e.size for name, e in tensor_folder.entries(folder / group).items()}
        refuse_misfit(targets, saved, f"{group} of the checkpoint")
        tensor_folder.read_into(folder / group, targets, ranks.host_group)


def remove_best(run: Run, but: Path | None = None) -> None:
    """Delete the checkpoints that are or were of least validation loss, `but` one."""
    for folder in list_best(run):
        if folder != but:
            _remove(folder)


def remove_averages_after(run: Run, step: int) -> None:
    """Delete those that a run which goes on from `step` will come to again."""
    for folder in list_averages(run):
        if step_of(folder) > step:
            _remove(folder)


def tidy(run: Run, settings: TrainingSettings) -> None:
    """Delete what a killed process left half written, half deleted or not yet deleted."""
    _remove_leftovers(run.checkpoints)
    for half in (*run.folder.glob(".*.partial"), *run.samples.glob(".*.partial")):
        if half.is_dir():  # an export
            shutil.rmtree(half)
        else:
            half.unlink(missing_ok=True)
    every_steps, retain = settings.averages.snapshot_every_steps, settings.retain
    _remove_steps(list_checkpoints(run), lambda steps: outdated(steps, retain))
    _remove_steps(
        list_averages(run), lambda steps: thinned_out(steps, every_steps, retain.num_averages)
    )


def _remove_leftovers(folder: Path) -> None:
    for pattern in (".partial-*", ".old-*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _remove_steps(
    folders: Sequence[Path], choose: Callable[[Sequence[int]], Sequence[int]]
) -> None:
    by_step = {step_of(folder): folder for folder in folders}
    for step in choose(list(by_step)):
        _remove(by_step[step])


def _remove(folder: Path) -> None:
    """Delete a checkpoint; it loses its name first, so a kill leaves no half checkpoint."""
    doomed = folder.with_name(f".old-{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)
