"""What a quickstart would do, what it costs, and about how long it takes: `--dry-run`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rectiflow.jobs import run_training
from rectiflow.jobs.job import Progress
from rectiflow.machine import num_cores
from rectiflow.quickstart.models import scored_prompts
from rectiflow.quickstart.prompts import PROMPTS
from rectiflow.quickstart.recipe import RECIPE
from rectiflow.runs import Run
from rectiflow.training.recipe import FlowRecipe

# Core-seconds for each, measured on a 2-core x86 server; only the plan of a dry run uses them.
ENCODING_SECONDS = 0.005
PICTURE_SECONDS = 0.4


def plan(
    recipe: FlowRecipe,
    assignments: Sequence[str],
    out: Path,
    per_task: int,
    progress: Progress,
) -> Mapping[str, Any]:
    """What would be done, what it costs, and about how long it takes here."""
    cores = num_cores()
    num_scenes = getattr(recipe.data, "num_scenes", 0) + recipe.data.num_validation
    num_pictures = 2 * (len(PROMPTS) + len(scored_prompts(per_task)))
    drawing = f"draw {num_pictures} pictures with two models, score them, write report.html"
    minutes = {"drawing and scoring": num_pictures * PICTURE_SECONDS / cores / 60}
    if "export" in (Run(out).result() or {}):
        would = [f"keep the finished run {out}", drawing]
    else:
        encoding = num_scenes * ENCODING_SECONDS / cores / 60
        training = recipe.training.minutes or 0.0
        minutes = {"encoding": encoding, "training": training, **minutes}
        would = [f"encode {num_scenes:,} scenes", f"train for {training:g} minutes", drawing]
    minutes["total"] = sum(minutes.values())
    return {
        "would": would,
        "about_minutes": {stage: round(value, 1) for stage, value in minutes.items()},
        **run_training(RECIPE, assignments, out, True, progress),
    }
