"""Do the runs of a study: one fresh process to train and one to score each, finished ones kept."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rectiflow.machine import num_cores
from rectiflow.processes import Finished, run_rectiflow
from rectiflow.runs import Run, write_bytes, write_json
from rectiflow.scaling.costs import cost_of
from rectiflow.scaling.results import CELL, FILES, SCORES, is_finished, read_result
from rectiflow.scaling.study import Cell, Study
from rectiflow.training.recipe import load_recipe
from rectiflow.training.resume import check_claim

Progress = Callable[[str, int, int | None, Mapping[str, Any]], None]
Program = Callable[..., Finished]

# Of small networks on x86 servers with bf16; only the times of a dry run use them.
CORE_FLOPS_PER_SECOND: Final = 6e10
SECONDS_BESIDE_TRAINING: Final = 30.0  # starts, validation, pictures, scores

MAX_KEPT_BYTES: Final = 100_000
"""Of one run's files that are kept; a recipe that logs too often is told so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where a study lies.

    Args:
        runs: Folder of the runs with their weights, and of the encoded store they share.
        out: Folder of pages and of what is kept of finished runs.
    """

    runs: Path
    out: Path

    def run(self, study: Study, cell: Cell) -> Path:
        """Folder of a run with its weights."""
        return self.runs / study.name / f"{study.part}-{cell.name}"

    def kept(self, study: Study, cell: Cell) -> Path:
        """Folder of what is kept of a finished run."""
        return self.part(study) / cell.name

    def part(self, study: Study) -> Path:
        """Folder of all finished runs of a study."""
        return self.out / study.name / study.part

    def figure(self, study: Study) -> Path:
        """The figure of a study."""
        return self.out / study.name / f"{study.part}.svg"

    def page(self, study: Study) -> Path:
        """The page that a study has a section in."""
        return self.out / f"{study.name}.md"


def plan_study(study: Study, cells: Sequence[Cell], places: Places) -> dict[str, Any]:
    """What `run_study` would do, what it costs, and about how long it takes here.

    Raises:
        ValueError: If a folder holds a run of other settings.
    """
    rows = [_planned(study, cell, places) for cell in cells]
    known = {row["variant"]: row["seconds"] for row in rows if row["state"] == "finished"}
    for row in rows:
        row["about_seconds"] = 0.0
        if row["state"] != "finished":
            training = known.get(row["variant"]) or row["training_flops"] / (
                CORE_FLOPS_PER_SECOND * num_cores()
            )
            row["about_seconds"] = round(training + SECONDS_BESIDE_TRAINING, 1)
        row.pop("seconds")
    return {
        "study": study.name,
        "match": study.part,
        "page": str(places.page(study)),
        "about_minutes": round(sum(row["about_seconds"] for row in rows) / 60, 1),
        "cells": rows,
    }


def run_study(
    study: Study,
    cells: Sequence[Cell],
    places: Places,
    progress: Progress,
    *,
    on_finished: Callable[[], object] = lambda: None,
    program: Program = run_rectiflow,
) -> None:
    """Train and score what is not finished yet; the same call goes on where it stopped.

    Args:
        study: Whose cells they are.
        cells: The runs to do, in this order.
        places: Where they lie.
        progress: Told how many of the runs are done.
        on_finished: Called after every run that was not finished before.
        program: Runs one command line of the program to its end.

    Raises:
        ValueError: If a folder holds a run of other settings; before anything is run.
        RuntimeError: If a process fails.
    """
    for cell in cells:
        _check(study, cell, places)
    for done, cell in enumerate(cells):
        progress("runs", done, len(cells), {})
        if not is_finished(places.kept(study, cell)):
            _run_cell(study, cell, places, program)
            _keep(places.run(study, cell), places.kept(study, cell))
            on_finished()
    progress("runs", len(cells), len(cells), {})


def _run_cell(study: Study, cell: Cell, places: Places, program: Program) -> None:
    run = Run(places.run(study, cell))
    if "export" not in (run.result() or {}):
        settings = [word for each in cell.settings for word in ("--set", each)]
        program("train", cell.recipe, "--run", str(run.folder), *settings)
    if not (run.folder / SCORES).is_file():
        fewer = ("--prompts-per-task", str(study.prompts_per_task))
        seed = ("--seed", str(cell.seed))
        scored = program("evaluate", "--run", str(run.folder), *fewer, *seed, "--json")
        scores = json.loads(scored.output)
        scores.get("evaluated", {}).pop("model", None)  # a place on this machine
        write_json(run.folder / SCORES, scores)
    cost = cost_of(cell.recipe, cell.settings)
    facts = {
        "study": study.name,
        "match": study.part,
        "variant": cell.variant,
        "seed": cell.seed,
        "parameters": cost.parameters,
        "forward_flops": cost.forward_flops,
        "training_flops": cost.training_flops,
    }
    write_json(run.folder / CELL, facts)


def _keep(run: Path, kept: Path) -> None:
    """Copy a finished run without weights and pictures; it appears whole, its last file last."""
    size = sum((run / name).stat().st_size for name in FILES)
    if size > MAX_KEPT_BYTES:
        raise ValueError(
            f"what is kept of a run must be <= {MAX_KEPT_BYTES} bytes, {run} has {size}; "
            "raise training.log_every_steps in the recipe"
        )
    if kept.exists():
        shutil.rmtree(kept)  # copied in part before
    for name in FILES:
        write_bytes(kept / name, (run / name).read_bytes())


def _check(study: Study, cell: Cell, places: Places) -> None:
    recipe = load_recipe(cell.recipe, cell.settings)
    for folder in (places.kept(study, cell), places.run(study, cell)):
        check_claim(Run(folder), recipe)


def _planned(study: Study, cell: Cell, places: Places) -> dict[str, Any]:
    _check(study, cell, places)
    cost = cost_of(cell.recipe, cell.settings)
    kept, run = places.kept(study, cell), places.run(study, cell)
    state = "begun" if run.exists() else "to do"
    if is_finished(kept):
        state = "finished"
    return {
        "cell": cell.name,
        "variant": cell.variant,
        "state": state,
        "num_steps": cost.num_steps,
        "images_seen": cost.images_seen,
        "parameters": cost.parameters,
        "forward_flops": cost.forward_flops,
        "training_flops": cost.training_flops,
        "seconds": read_result(kept).seconds if state == "finished" else 0.0,
    }
