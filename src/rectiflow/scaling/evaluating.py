"""Measure the runs of a study by the scenes suite, and where a study's runs and pages lie."""

import json
from pathlib import Path
from typing import Final

from rectiflow.runs import Run, write_json
from rectiflow.scaling.runner import Places, Procedure
from rectiflow.scaling.scheduling import Program
from rectiflow.scaling.study import Cell, Study

SCORES: Final = "scores.json"


def evaluation(study: Study) -> Procedure:
    """Every run is scored on the same prompts, its noise seeded with the run's seed."""

    def measure(cell: Cell, run: Run, program: Program) -> None:
        fewer = ("--prompts-per-task", str(study.prompts_per_task))
        seed = ("--seed", str(cell.seed))
        scored = program("evaluate", "--run", str(run.folder), *fewer, *seed, "--json")
        scores = json.loads(scored.output)
        scores.get("evaluated", {}).pop("model", None)  # a place on this machine
        write_json(run.folder / SCORES, scores)

    facts = {"study": study.name, "match": study.part}
    return Procedure(measure=measure, measures=SCORES, seconds=30.0, facts=facts)


def places_of(study: Study, runs: Path, out: Path) -> Places:
    """Where the runs of a study lie.

    Args:
        study: One of the comparisons on its page; all of them share an encoded store.
        runs: Folder of all studies' runs with their weights.
        out: Folder of pages and of what is kept of finished runs.
    """
    prefix = f"{study.part}-"
    return Places(runs=runs / study.name, kept=kept_of(study, out), prefix=prefix)


def kept_of(study: Study, out: Path) -> Path:
    """Folder of what is kept of a study's finished runs."""
    return out / study.name / study.part


def page_of(study: Study, out: Path) -> Path:
    """The page that a study has a section in."""
    return out / f"{study.name}.md"


def figure_of(study: Study, out: Path) -> Path:
    """The figure of a study."""
    return out / study.name / f"{study.part}.svg"
