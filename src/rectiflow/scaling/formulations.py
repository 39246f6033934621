"""The formulation study: Tables 1 and 2 of the SD3 paper (arXiv:2403.03206) in the small.

Every run has the same recipe, steps, order of data and noise; runs differ in the formulation and
the seed alone.
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from rectiflow.config import STRICT, from_dict, nearest, to_dict
from rectiflow.errors import DataError
from rectiflow.flow.formulations import STUDY, TABLE_1
from rectiflow.runs import Run, read_json, write_json
from rectiflow.scaling.costs import cost_of
from rectiflow.scaling.measures import (
    MEASURES,
    PLAN,
    Plan,
    read_measures,
    read_plan,
    write_plan,
)
from rectiflow.scaling.measuring import check_measurable
from rectiflow.scaling.runner import CORE_FLOPS_PER_SECOND, Places, Procedure, plan_cells
from rectiflow.scaling.scheduling import Crew, Program
from rectiflow.scaling.study import Cell
from rectiflow.training.recipe import load_recipe
from rectiflow.training.schedule import steps_in
from rectiflow.training.settings.training import PACE_STEPS

NAME: Final = "formulations"
DEFAULT_RECIPE: Final = "scenes-study"
REFERENCE: Final = "rf/lognorm(0.00,1.00)"
"""The formulation whose pace turns minutes into steps."""

BUDGET: Final = "budget.json"
NUM_PICTURES: Final = 128
NUM_VALIDATIONS: Final = 5
"""Steps of which the best is chosen, evenly spaced; the last is the end."""

MEASURING_SECONDS: Final = 65.0
"""Of 128 pictures in all settings on one core; for the times of a dry run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What all runs of a study have in common; settled once and kept in the study's folder.

    Args:
        recipe: A packaged recipe by name, or a path.
        num_steps: Optimizer steps of every run.
        num_pictures: Drawn of every run in every setting.
        minutes_per_run: Asked for; None if the steps were.
        step_seconds: Pace of the reference that made steps of the minutes.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    recipe: str
    num_steps: int
    num_pictures: int
    minutes_per_run: float | None = None
    step_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a caller asks of a study; None leaves a thing as it was settled before.

    Args:
        recipe: A packaged recipe by name, or a path.
        num_steps: Optimizer steps of every run; give these or minutes, unless settled before.
        minutes_per_run: Turned once, by the reference's pace, into steps that all runs share.
        num_pictures: Drawn of every run in every setting.

    Raises:
        ValueError: If both steps and minutes are given, or a number is out of range.
    """

    recipe: str | None = None
    num_steps: int | None = None
    minutes_per_run: float | None = None
    num_pictures: int | None = None

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.minutes_per_run is not None:
            raise ValueError("give the steps of a run or its minutes, not both")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"steps per run must be >= 1, got {self.num_steps}")
        if self.minutes_per_run is not None and not self.minutes_per_run > 0:
            raise ValueError(f"minutes per run must be > 0, got {self.minutes_per_run}")
        if self.num_pictures is not None and self.num_pictures < 2:
            raise ValueError(f"pictures must be >= 2, got {self.num_pictures}")


def chosen_names(only: Sequence[str] = (), is_whole: bool = False) -> tuple[str, ...]:
    """Formulations of the study, the 16 rows of the paper's Table 1 first, in its order.

    Args:
        only: Patterns as of file names, such as `rf/*`; all if empty.
        is_whole: All 61 instead of the 16.

    Raises:
        ValueError: If a pattern fits none; the nearest is suggested.
    """
    rest = tuple(name for name in STUDY if name not in TABLE_1)
    names = TABLE_1 + rest if is_whole else TABLE_1
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            is_beyond = not is_whole and fnmatch.filter(rest, pattern)
            hint = "it is not in Table 1, add --all" if is_beyond else nearest(pattern, names)
            raise ValueError(f"no formulation {pattern!r} in the study; {hint}")
    if not only:
        return names
    return tuple(n for n in names if any(fnmatch.fnmatchcase(n, p) for p in only))


def cells_of(names: Sequence[str], seeds: Sequence[int], budget: Budget) -> list[Cell]:
    """The runs: Table 1 seed by seed, then the others, so that what is finished compares."""
    parts = [[n for n in names if (n in TABLE_1) is is_row] for is_row in (True, False)]
    return [
        Cell(
            variant=name,
            seed=seed,
            recipe=budget.recipe,
            settings=(*_settings(name, budget.num_steps), f"seed={seed}"),
        )
        for part in parts
        for seed in seeds
        for name in part
    ]


def _settings(name: str, num_steps: int) -> tuple[str, ...]:
    return (
        f'objective.formulation="{name}"',
        f"training.num_steps={num_steps}",
        f"training.validate_every_steps={-(-num_steps // NUM_VALIDATIONS)}",
        "training.retain.best=true",
    )


def procedure(budget: Budget) -> Procedure:
    """Every run is measured by `study measure`, also one that diverged."""

    def measure(cell: Cell, run: Run, program: Program) -> None:
        program("study", "measure", str(run.folder), "--pictures", str(budget.num_pictures))

    def is_current(run: Run) -> bool:
        settings = read_measures(run.folder).settings
        return all(each.num_pictures == budget.num_pictures for each in settings)

    pace = budget.step_seconds
    return Procedure(
        measure=measure,
        measures=MEASURES,
        is_current=is_current,
        training_seconds=None if pace is None else pace * budget.num_steps,
        seconds=MEASURING_SECONDS * budget.num_pictures / NUM_PICTURES,
        facts={"study": NAME},
        may_diverge=True,
    )


def places_of(runs: Path, out: Path, budget: Budget) -> Places:
    """Where the runs lie: with weights in `runs`/formulations, without in `out`."""
    prefix = f"{Path(budget.recipe).stem}-{budget.num_steps}-"  # of other budgets beside them
    return Places(runs=runs / NAME, kept=out, prefix=prefix)


def settled(out: Path, request: Request) -> Budget | None:
    """The budget that a study's folder holds; None if it holds none.

    Raises:
        ValueError: If the request differs from it.
        DataError: If the file is damaged.
    """
    file = out / BUDGET
    if not file.is_file():
        return None
    try:
        budget: Budget = from_dict(Budget, read_json(file))
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}") from error
    for name, asked in to_dict(request).items():
        if asked is not None and asked != getattr(budget, name):
            raise ValueError(
                f"{out} is a study with {name} {getattr(budget, name)}, got {asked}; "
                "leave it out to go on, or choose another folder"
            )
    return budget


def settle(runs: Path, out: Path, request: Request, crew: Crew) -> Budget:
    """The budget of a study: that in its folder, else of the request, kept there from now on.

    A short run of the reference tells the pace, alone on the machine, and makes the encoded store
    that all runs share.

    Raises:
        ValueError: If the folder holds another budget, neither steps nor minutes are given, or
            runs of the recipe could not be measured.
        RuntimeError: If the short run fails.
    """
    budget = settled(out, request)
    if budget is None:
        _check(_budget(request, None if request.minutes_per_run is None else 1.0))
        recipe = request.recipe or DEFAULT_RECIPE
        pace = _pace(runs / NAME / f"pace-{Path(recipe).stem}", recipe, crew)
        budget = _budget(request, pace)
        write_json(out / BUDGET, to_dict(budget))
    return budget


def _check(budget: Budget) -> None:
    """Refuse before anything runs what could not be trained or measured."""
    recipe = load_recipe(budget.recipe, _settings(REFERENCE, budget.num_steps))
    check_measurable(to_dict(recipe)["encoders"], budget.num_pictures)


def _budget(request: Request, step_seconds: float | None) -> Budget:
    num_steps, minutes = request.num_steps, request.minutes_per_run
    if num_steps is None:
        if minutes is None or step_seconds is None:
            raise ValueError("a new study needs --minutes-per-run or --steps-per-run")
        num_steps = steps_in(minutes, step_seconds)
    return Budget(
        recipe=request.recipe or DEFAULT_RECIPE,
        num_steps=num_steps,
        num_pictures=request.num_pictures or NUM_PICTURES,
        minutes_per_run=minutes,
        step_seconds=step_seconds,
    )


def _pace(folder: Path, recipe: str, crew: Crew) -> float:
    """Mean seconds of a step of the reference, over the steps that `training.minutes` goes by."""
    first, last = PACE_STEPS
    settings = (
        f'objective.formulation="{REFERENCE}"',
        f"training.num_steps={last}",
        "training.log_every_steps=1",
        "training.validate_every_steps=0",
        "training.sample_every_steps=0",
    )
    words = [word for each in settings for word in ("--set", each)]

    def train(run: Run, program: Program) -> None:
        program("train", recipe, "--run", str(run.folder), *words)

    crew.work_off([Run(folder)], train, lambda run: run.folder.with_suffix(".lock"), lambda _: None)
    rows = [row for row in Run(folder).metrics() if row["step"] >= first]
    return sum(row["step_seconds"] for row in rows) / len(rows)


def note_plan(out: Path, names: Sequence[str], num_seeds: int) -> Plan:
    """Keep what runs a study is to have: what it was to have before, and these."""
    before = read_plan(out) if (out / PLAN).is_file() else None
    known = set(names) | set(before.formulations if before else ())
    num = max(num_seeds, len(before.seeds) if before else 0)
    plan = Plan(
        formulations=tuple(name for name in chosen_names(is_whole=True) if name in known),
        seeds=tuple(range(num)),
    )
    write_plan(out, plan)
    return plan


def plan(
    names: Sequence[str], num_seeds: int, request: Request, runs: Path, out: Path, num_slots: int
) -> dict[str, Any]:
    """What the study would do and about how long it takes here; runs nothing.

    Minutes that are not yet steps are told as if a step took as long as its FLOPs say.

    Raises:
        ValueError: As `settle`.
    """
    budget = settled(out, request) or _expected(request)
    cells, places = cells_of(names, range(num_seeds), budget), places_of(runs, out, budget)
    return plan_cells(cells, places, procedure(budget), num_slots)


def _expected(request: Request) -> Budget:
    seconds = None
    if request.minutes_per_run is not None:
        one = cost_of(request.recipe or DEFAULT_RECIPE, ("training.num_steps=1",))
        seconds = one.training_flops / CORE_FLOPS_PER_SECOND
    budget = _budget(request, seconds)
    _check(budget)
    return budget
