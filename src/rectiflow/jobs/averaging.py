"""A bundle with another average of a flow run's weights than that of its export."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rectiflow.checkpoints import load_group, newest_intact, step_of
from rectiflow.jobs.flow import export, shape_of
from rectiflow.runs import Run
from rectiflow.sampling.load import load_encoders, with_weights
from rectiflow.training.averages import exponential_name, reconstruct
from rectiflow.training.recipe import FlowRecipe, recipe_from_dict


def export_average(
    folder: Path,
    out: Path,
    *,
    width: float | None = None,
    step: int | None = None,
    decay: float | None = None,
) -> Mapping[str, Any]:
    """Write a bundle and tell what its average is made of.

    Args:
        folder: The run's, finished or not.
        out: Where the bundle goes; must not exist.
        width: Relative width of a power-function average, made of those that were kept.
        step: With `width`: steps to average over, by default those of the newest kept averages.
        decay: One of `training.averages.decays`, from the newest checkpoint; instead of `width`.

    Raises:
        ValueError: If not exactly one of `width` and `decay` is given, or the run kept no such.
        FileNotFoundError: If there is no such run.
        DataError: If a file is damaged.
    """
    if (width is None) == (decay is None):
        raise ValueError(f"give a width or a decay, exactly one, got {width} and {decay}")
    if out.exists():
        raise FileExistsError(f"{out} is there already; choose another folder for the bundle")
    run = Run(folder)
    recipe = recipe_from_dict(run.config())
    if not isinstance(recipe, FlowRecipe):
        raise ValueError(f"{folder} trains {recipe.kind}; only averages of a flow can be exported")
    if decay is not None:
        weights, facts = _tracked(run, recipe, decay, step)
    else:
        assert width is not None
        made = reconstruct(run, width, step)
        weights = made.tensors
        facts = {
            "width": width,
            "step": made.step,
            "made_of": made.num_averages,
            "profile_error": made.error,
        }
    encoders = dataclasses.asdict(recipe.encoders)
    network = with_weights(shape_of(recipe, *load_encoders(encoders)), weights, folder)
    export(network, recipe.model.kind, encoders, run, out)
    return {**facts, "bundle": str(out)}


def _tracked(
    run: Run, recipe: FlowRecipe, decay: float, step: int | None
) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    if step is not None:
        raise ValueError(f"a decay is that of the newest checkpoint; step must go, got {step}")
    if decay not in recipe.training.averages.decays:
        known = list(recipe.training.averages.decays)
        raise ValueError(f"training.averages.decays of {run.folder} are {known}, got {decay}")
    name = exponential_name(decay)
    last = newest_intact(run, name)
    if last is None:
        raise FileNotFoundError(f"{run.folder} has no checkpoint yet; train it first")
    weights = load_group(last, name)
    return weights, {"decay": decay, "step": step_of(last)}
