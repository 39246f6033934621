"""What a recipe's run costs, and how many steps make two of them cost the same."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rectiflow.jobs.flow import shape_of
from rectiflow.nn.backbones import backbone_of
from rectiflow.sampling.load import load_encoders
from rectiflow.training.recipe import FlowRecipe, load_recipe

BACKWARD_FACTOR = 3
"""Forward and backward together in units of forward, by which studies make budgets equal. Exactly
it is less, for the first layers have no gradient of their input (see `nn.products`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of one run of a flow recipe of a given number of steps.

    Args:
        parameters: Learned numbers of the network.
        forward_flops: Of the network for one picture; a multiply-add counts two.
        num_steps: Optimizer steps.
        images_seen: Samples of all steps.
    """

    parameters: int
    forward_flops: int
    num_steps: int
    images_seen: int

    @property
    def training_flops(self) -> int:
        """Forward and backward of all samples; the backward pass counts twice the forward."""
        return BACKWARD_FACTOR * self.forward_flops * self.images_seen


def cost_of(recipe_name: str, settings: tuple[str, ...] = ()) -> Cost:
    """Cost of a packaged recipe, or one by path, with changes of its settings.

    Raises:
        ValueError: If the recipe trains no flow or does not fix its number of steps.
    """
    recipe = load_recipe(recipe_name, settings)
    if not isinstance(recipe, FlowRecipe):
        raise ValueError(f"a study compares flows, got a recipe of kind {recipe.kind}")
    num_steps = recipe.training.num_steps
    if num_steps is None:
        raise ValueError("a study needs training.num_steps: minutes are no property of a recipe")
    autoencoder, text = _encoders(tuple(dataclasses.asdict(recipe.encoders).items()))
    shape = shape_of(recipe, autoencoder, text)
    side, backbone = recipe.data.size_px // autoencoder.factor, backbone_of(shape)
    return Cost(
        parameters=backbone.num_parameters(shape),
        forward_flops=backbone.forward_flops(shape, side, side, tuple(text.segments)),
        num_steps=num_steps,
        images_seen=num_steps * recipe.training.batch_size,
    )


def matched_steps(costs: Mapping[str, Cost], reference: str) -> dict[str, int]:
    """Steps by name with which every run costs what the reference's does, to half a step.

    All must have the same batch size.
    """
    budget = costs[reference].forward_flops * costs[reference].num_steps
    return {name: max(1, round(budget / cost.forward_flops)) for name, cost in costs.items()}


@cache
def _encoders(section: tuple[tuple[str, Any], ...]) -> Any:
    return load_encoders(dict(section))
