"""Do the runs of a study: each trained and measured by fresh processes, finished ones kept."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rectiflow.machine import num_cores
from rectiflow.runs import Run, write_bytes, write_json
from rectiflow.scaling.costs import cost_of
from rectiflow.scaling.scheduling import Crew, Program
from rectiflow.scaling.study import Cell
from rectiflow.training.recipe import load_recipe
from rectiflow.training.resume import check_claim

Progress = Callable[[str, int, int | None, Mapping[str, Any]], None]
Measure = Callable[[Cell, Run, Program], None]

CELL: Final = "cell.json"
# Of small networks on x86 servers with bf16; only the times of a dry run use them.
CORE_FLOPS_PER_SECOND: Final = 6e10

MAX_KEPT_BYTES: Final = 100_000
"""Of one run's files that are kept; a recipe that logs too often is told so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Procedure:
    """How the runs of a study are done.

    Args:
        measure: Measures a trained run by command lines of the program.
        measures: Name of the file that this writes into the run's folder.
        seconds: About how long measuring takes; for the times of a dry run.
        training_seconds: The same of training, None if only its FLOPs tell.
        is_current: Whether the measures in a run's folder are those that this study asks for;
            another study with the same runs may have asked for others.
        facts: Entries of every run's cell.json.
        may_diverge: Whether a run that ends in no finite numbers is a result to be measured, not
            a failure.
    """

    measure: Measure
    measures: str
    seconds: float
    training_seconds: float | None = None
    is_current: Callable[[Run], bool] = lambda run: True
    facts: Mapping[str, Any] = field(default_factory=dict)
    may_diverge: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the runs of a study lie.

    Args:
        runs: Folder of the runs with their weights, and of the encoded store they share.
        kept: Folder of what is kept of finished runs.
        prefix: Of the names of the folders in `runs`, which may hold several studies.
    """

    runs: Path
    kept: Path
    prefix: str = ""

    def run(self, cell: Cell) -> Run:
        """A run with its weights."""
        return Run(self.runs / f"{self.prefix}{cell.name}")

    def kept_run(self, cell: Cell) -> Run:
        """What is kept of a finished run."""
        return Run(self.kept / cell.name)

    def lock(self, cell: Cell) -> Path:
        """A file held by the processes of a run."""
        return self.runs / f".{self.prefix}{cell.name}.lock"


def plan_cells(
    cells: Sequence[Cell], places: Places, procedure: Procedure, num_slots: int
) -> dict[str, Any]:
    """What `run_cells` would do, what it costs, and about how long it takes here.

    Raises:
        ValueError: If a folder holds a run of other settings.
    """
    rows = [_planned(cell, places, procedure) for cell in cells]
    known = {row["variant"]: row["seconds"] for row in rows if row["seconds"]}
    for row in rows:
        row["about_seconds"] = 0.0
        if row["state"] != "finished":
            guess = num_slots * row["training_flops"] / (CORE_FLOPS_PER_SECOND * num_cores())
            training = known.get(row["variant"]) or procedure.training_seconds or guess
            row["about_seconds"] = round(training + procedure.seconds, 1)
        row.pop("seconds")
    total = sum(row["about_seconds"] for row in rows)
    return {"about_minutes": round(total / num_slots / 60, 1), "cells": rows}


def run_cells(
    cells: Sequence[Cell],
    places: Places,
    procedure: Procedure,
    crew: Crew,
    progress: Progress,
    on_finished: Callable[[], object] = lambda: None,
) -> None:
    """Train and measure what is not finished yet; the same call goes on where it stopped.

    Args:
        cells: The runs to do, in this order.
        places: Where they lie.
        procedure: How they are done.
        crew: Runs the processes, side by side.
        progress: Told how many of the runs are done.
        on_finished: Called after every run that was not finished before.

    Raises:
        ValueError: If a folder holds a run of other settings; before anything is run.
        RuntimeError: If processes failed; the other runs are done nevertheless.
    """
    for cell in cells:
        _check(cell, places)
    todo = [cell for cell in cells if not is_finished(places.kept_run(cell), procedure)]
    done = len(cells) - len(todo)
    progress("runs", done, len(cells), {})

    def work(cell: Cell, program: Program) -> None:
        _run_cell(cell, places.run(cell), procedure, program)

    def finish(cell: Cell) -> None:
        nonlocal done
        _keep(places.run(cell), places.kept_run(cell), procedure)
        on_finished()
        done += 1
        progress("runs", done, len(cells), {})

    crew.work_off(todo, work, places.lock, finish)


def files_of(procedure: Procedure) -> tuple[str, ...]:
    """What is kept of a finished run: everything but pictures and weights; the last file last."""
    return ("config.json", "metrics.jsonl", "result.json", procedure.measures, CELL)


def is_finished(run: Run, procedure: Procedure) -> bool:
    """Whether a folder holds all that is kept of a finished run."""
    needed = files_of(procedure)
    if procedure.may_diverge and run.diverged():
        needed = tuple(name for name in needed if name != run.result_path.name)
    has_all = all((run.folder / name).is_file() for name in needed)
    return has_all and _is_trained(run, procedure)


def _is_trained(run: Run, procedure: Procedure) -> bool:
    has_diverged = procedure.may_diverge and run.diverged() is not None
    return has_diverged or "export" in (run.result() or {})


def _run_cell(cell: Cell, run: Run, procedure: Procedure, program: Program) -> None:
    if not _is_trained(run, procedure):
        settings = [word for each in cell.settings for word in ("--set", each)]
        try:
            program("train", cell.recipe, "--run", str(run.folder), *settings)
        except RuntimeError:
            if not _is_trained(run, procedure):  # it ended for another reason than divergence
                raise
    if not (run.folder / procedure.measures).is_file() or not procedure.is_current(run):
        procedure.measure(cell, run, program)
    cost = cost_of(cell.recipe, cell.settings)
    facts = {
        **procedure.facts,
        "variant": cell.variant,
        "seed": cell.seed,
        "parameters": cost.parameters,
        "forward_flops": cost.forward_flops,
        "training_flops": cost.training_flops,
    }
    write_json(run.folder / CELL, facts)


def _keep(run: Run, kept: Run, procedure: Procedure) -> None:
    """Copy a finished run without weights and pictures; its last file tells that it is whole."""
    names = [*files_of(procedure)[:-1], run.diverged_path.name, CELL]
    files = [run.folder / name for name in names if (run.folder / name).is_file()]
    size = sum(file.stat().st_size for file in files)
    if size > MAX_KEPT_BYTES:
        raise ValueError(
            f"what is kept of a run must be <= {MAX_KEPT_BYTES} bytes, {run.folder} has {size}; "
            "raise training.log_every_steps in the recipe"
        )
    if kept.folder.exists():
        shutil.rmtree(kept.folder)  # copied in part before
    for file in files:
        write_bytes(kept.folder / file.name, file.read_bytes())


def _check(cell: Cell, places: Places) -> None:
    recipe = load_recipe(cell.recipe, cell.settings)
    for run in (places.kept_run(cell), places.run(cell)):
        check_claim(run, recipe)


def _planned(cell: Cell, places: Places, procedure: Procedure) -> dict[str, Any]:
    _check(cell, places)
    cost = cost_of(cell.recipe, cell.settings)
    kept, state = places.kept_run(cell), "to do"
    if is_finished(kept, procedure):
        state = "finished"
    elif places.run(cell).folder.exists():
        state = "begun"
    result = kept.result() if state == "finished" else None
    return {
        "cell": cell.name,
        "variant": cell.variant,
        "seed": cell.seed,
        "state": state,
        "num_steps": cost.num_steps,
        "images_seen": cost.images_seen,
        "parameters": cost.parameters,
        "forward_flops": cost.forward_flops,
        "training_flops": cost.training_flops,
        "seconds": float((result or {}).get("elapsed_seconds", 0.0)),
    }
