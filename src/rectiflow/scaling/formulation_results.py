"""The formulation study as its folder holds it: what was to be run, what is there, how it ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rectiflow.runs import Run
from rectiflow.scaling.measures import (
    MEASURES,
    PLAN,
    Measures,
    Plan,
    Setting,
    read_measures,
    read_plan,
)
from rectiflow.scaling.paper_values import TABLE_1
from rectiflow.scaling.ranking import Ranks, average_ranks
from rectiflow.scaling.resampling import ScoreDraws, score_draws

REFERENCE_SEEDS: Final = (0, 1)
"""Seeds that are expected where no plan says it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Runs of a study.

    Args:
        plan: What was to be run, and the order of the tables.
        runs: What is there, in that order.
        made_on: Torch, system, device and number format of the runs, each once.
    """

    plan: Plan
    runs: tuple[Measures, ...]
    made_on: tuple[str, ...]

    @property
    def missing(self) -> tuple[tuple[str, int], ...]:
        """(formulation, seed) of the runs that are not there."""
        there = {(run.formulation, run.seed) for run in self.runs}
        return tuple(key for key in self.plan.runs if key not in there)

    @property
    def diverged(self) -> tuple[Measures, ...]:
        """Runs that ended in no finite numbers."""
        return tuple(run for run in self.runs if run.diverged is not None)

    def of(self, formulation: str) -> tuple[Measures, ...]:
        """The runs of one formulation, by seed."""
        return tuple(run for run in self.runs if run.formulation == formulation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Results with what follows from them.

    Args:
        results: The runs.
        scores: CLIP scores and Frechet distances, with draws.
        ranks: Average ranks by column of Table 1.
        order: Formulations by our average rank over all settings, best first.
    """

    results: Results
    scores: ScoreDraws
    ranks: Mapping[str, Ranks]
    order: tuple[str, ...]

    def incomplete(self) -> dict[str, tuple[Setting, ...]]:
        """Settings in which a formulation was put last for want of scores."""
        found = {name: self.scores.missing(name) for name in self.order}
        return {name: settings for name, settings in found.items() if settings}


def read_formulations(folder: Path) -> Results:
    """The runs in a study's folder, one folder each; those without measures are passed over.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If a file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no study in {folder}: there is no such folder")
    folders = sorted(path.parent for path in folder.glob(f"*/{MEASURES}"))
    runs = [read_measures(each) for each in folders]
    plan = _plan(folder, runs)
    places = {name: k for k, name in enumerate(plan.formulations)}
    runs.sort(key=lambda run: (places[run.formulation], run.seed))
    made_on = {text for each in folders if (text := _made_on(each))}
    return Results(plan=plan, runs=tuple(runs), made_on=tuple(sorted(made_on)))


def findings_of(results: Results) -> Findings | None:
    """Scores, ranks and order; None while no run has scores.

    Raises:
        ValueError: If the runs cannot be compared, see `score_draws`.
    """
    if not any(run.settings for run in results.runs if run.diverged is None):
        return None
    scores = score_draws(results.runs)
    ranks = average_ranks(scores)
    value = dict(zip(scores.formulations, ranks["all"].point, strict=True))
    order = tuple(sorted(value, key=lambda name: value[name]))
    return Findings(results=results, scores=scores, ranks=ranks, order=order)


def _plan(folder: Path, runs: Sequence[Measures]) -> Plan:
    """The plan, with what was run beside it put after."""
    if (folder / PLAN).is_file():
        plan = read_plan(folder)
        names, seeds = plan.formulations, plan.seeds
    else:
        names, seeds = tuple(TABLE_1), REFERENCE_SEEDS
    return Plan(
        formulations=tuple(dict.fromkeys([*names, *(run.formulation for run in runs)])),
        seeds=tuple(dict.fromkeys([*seeds, *sorted(run.seed for run in runs)])),
    )


def _made_on(folder: Path) -> str | None:
    result = Run(folder).result() or {}
    found = [result.get(name) for name in ("torch", "machine", "device", "precision")]
    if None in found:
        return None  # of a run that diverged before its end
    torch, machine, device, precision = found
    return f"torch {torch}, {machine}, {device}, {precision}"
