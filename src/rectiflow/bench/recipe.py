"""The recipe scenes-tiny, as it is measured."""

import dataclasses

from rectiflow.bench.settings import BenchSettings
from rectiflow.sampling.sources import encoder_folders
from rectiflow.training.recipe import FlowRecipe, load_recipe

RECIPE = "scenes-tiny"


def scenes_tiny(settings: BenchSettings) -> FlowRecipe:
    """The recipe with the caller's changes.

    Raises:
        ValueError: If a change is wrong.
    """
    recipe = load_recipe(RECIPE, settings.assignments)
    assert isinstance(recipe, FlowRecipe)
    return recipe


def require_encoders(settings: BenchSettings) -> None:
    """Look for the encoders that the recipe names.

    Raises:
        FileNotFoundError: If they are not there.
    """
    encoder_folders(dataclasses.asdict(scenes_tiny(settings).encoders))
