"""What a plan can be made for, by name: a recipe, or a network of `rectiflow model list`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rectiflow.config import nearest
from rectiflow.data.store import Store
from rectiflow.jobs.flow import shape_of
from rectiflow.jobs.records import cache_of
from rectiflow.nn.tables import every_row, row_of
from rectiflow.planning.subject import Subject, named_subject
from rectiflow.planning.workload import workload_of
from rectiflow.preparation.encode import Encoders
from rectiflow.sampling.load import load_encoders
from rectiflow.training.recipe import FlowRecipe, load_recipe, packaged_recipes
from rectiflow.training.settings.data import AnyData, ScenesData, StoreData


def subject_of(name: str, assignments: Sequence[str] = (), size_px: int | None = None) -> Subject:
    """The network and data of a recipe, packaged or by path, or of a named network.

    A name that both have means the recipe.

    Args:
        name: What to plan for.
        assignments: Changes of a recipe's settings, each "section.field=value".
        size_px: Side of the pictures; None for the recipe's, or that of the network's table.

    Raises:
        ValueError: If there is nothing of that name, the recipe trains no flow, or settings are
            changed of a network without a recipe.
    """
    names, path = packaged_recipes(), Path(name)
    if name in names or path.is_file() or path.suffix == ".toml":
        size = () if size_px is None else (f"data.size_px={size_px}",)
        return _recipe_subject(name, (*assignments, *size))
    row = row_of(name)
    if row is None:
        every = list({*names, *(each.name for each in every_row())})
        raise ValueError(f"unknown recipe or network {name!r}; {nearest(name, every)}")
    if assignments:
        raise ValueError(f"{name} is a network, not a recipe: it has no settings to change")
    return named_subject(row, size_px)


def _recipe_subject(name: str, assignments: Sequence[str]) -> Subject:
    recipe = load_recipe(name, assignments)
    if not isinstance(recipe, FlowRecipe):
        raise ValueError(f"a plan is made for a flow, got a recipe of kind {recipe.kind}")
    return recipe_subject(recipe)


def recipe_subject(recipe: FlowRecipe) -> Subject:
    """The network and data of a flow's recipe."""
    autoencoder, text = load_encoders(dataclasses.asdict(recipe.encoders))
    shape: Any = shape_of(recipe, autoencoder, text)
    side = recipe.data.size_px // autoencoder.factor
    segments, training = tuple(text.segments), recipe.training
    num_steps = training.num_steps
    return Subject(
        name=recipe.name,
        config=shape,
        size_px=recipe.data.size_px,
        latent_side=side,
        segments=segments,
        workload=workload_of(shape, side, segments),
        arrays=Encoders(autoencoder, text).arrays(recipe.data.size_px),
        num_captions=_num_captions(recipe.data),
        batch=training.batch_size,
        images=None if num_steps is None else num_steps * training.batch_size,
        minutes=training.minutes,
        optimizer=training.optimizer,
        num_averages=1 + len(training.averages.decays) + len(training.averages.widths),
        is_bf16=training.precision != "fp32",
    )


def _num_captions(data: AnyData) -> int:
    if isinstance(data, StoreData):
        return len(Store.open(data.store, cache_of(data)).manifest.captions)
    return 2 if isinstance(data, ScenesData) else 1
