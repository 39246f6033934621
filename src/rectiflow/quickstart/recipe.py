"""What the quickstart trains, and what one may do after it."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rectiflow import config
from rectiflow.training.recipe import FlowRecipe, load_recipe

RECIPE = "scenes-tiny"
SETTINGS = (
    "data.num_scenes=12_000",
    "data.num_validation=64",
    "training.log_every_steps=10",
    "training.validate_every_steps=150",
    "training.sample_every_steps=150",
)
"""What the quickstart changes in the recipe: less to encode, more to see while it learns."""


def settings_of(recipe: FlowRecipe) -> Iterator[tuple[str, Any, bool]]:
    """Every setting as (dotted name, value, whether it differs from the packaged recipe)."""
    own = {path: value for path, value, _ in config.leaves(load_recipe(RECIPE))}
    for path, value, _ in config.leaves(recipe):
        yield path, value, path not in own or own[path] != value


def commands_for(folder: Path) -> list[tuple[str, str]]:
    """What to do with the run in `folder` and after it, as (purpose, command line)."""
    run = shlex.quote(str(folder))
    return [
        (
            "Draw with the model that was just trained",
            f'rectiflow sample --run {run} "three yellow triangles" "a red ring" --num 4 --sheet',
        ),
        (
            "Draw with the reference",
            'rectiflow sample "two red circles" "a blue star left of a green square"',
        ),
        ("Score it on the whole suite", f"rectiflow evaluate --run {run}"),
        (
            "Train longer, on more scenes",
            f"rectiflow train {RECIPE} --run runs/longer --set training.minutes=60",
        ),
        (
            "Change one thing and compare",
            f"rectiflow train {RECIPE} --run runs/adamw --set training.optimizer=adamw",
        ),
        ("Learn from your own pictures", "rectiflow train folder --set data.path=/my/pictures"),
        ("Watch the curves of all runs", f"tensorboard --logdir {shlex.quote(str(folder.parent))}"),
    ]
