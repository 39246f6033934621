"""The training step of scenes-tiny: how long it takes and on what."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.recipe import RECIPE
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.startup import peak_memory
from rectiflow.bench.timing import share_outside, share_outside_loop
from rectiflow.processes import run_rectiflow
from rectiflow.runs import Run

MAX_SHARE_OUTSIDE = 0.15
LOG_EVERY = 5
FIRST_STEP = 20  # before it the allocator and the kernels' choices settle
PHASES = ("data", "forward", "backward", "optimizer", "other")

# Only the steps are wanted: little data, and validation, pictures and checkpoint at the end alone.
LEAN = (
    "data.num_scenes=2048",
    "data.num_validation=8",
    "sampling.num_steps=1",
    "sampling.num_pictures=1",
    "training.validate_every_steps=0",
    "training.sample_every_steps=0",
    "training.checkpoint_every_steps=0",
    "training.checkpoint_every_minutes=0",
    f"training.log_every_steps={LOG_EVERY}",
)


def measure_step(settings: BenchSettings) -> dict[str, Figure]:
    """Some steps of `rectiflow train scenes-tiny` in a process of its own, read from its run."""
    num_steps = FIRST_STEP + LOG_EVERY * settings.amount(20, 2)
    changes = [*settings.assignments, *LEAN, f"training.num_steps={num_steps}"]
    options = [word for change in changes for word in ("--set", change)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        done = run_rectiflow("train", RECIPE, "--run", str(run), *options)
        rows = Run(run).metrics()
    return step_figures(rows) | peak_memory([done])


def step_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Figures of the lines of a run's metrics.jsonl; those of the first steps are left out.

    Raises:
        ValueError: If fewer than two lines are left.
    """
    settled = [row for row in rows if row["step"] >= FIRST_STEP]
    loop = share_outside_loop(settled)
    measured = settled[1:]  # the line of FIRST_STEP tells of steps before it
    share = median_figure(
        [share_outside(row) for row in measured], "of the step", at_most=MAX_SHARE_OUTSIDE
    )
    figures = {
        "seconds": median_figure([row["step_seconds"] for row in measured], "s"),
        "outside": share,
        "outside, logging included": Figure(
            value=loop, unit="of the step", at_most=MAX_SHARE_OUTSIDE
        ),
    }
    for phase in PHASES:
        seconds = [row[f"{phase}_seconds"] for row in measured]
        figures[f"{phase} seconds"] = median_figure(seconds, "s")
    return figures
