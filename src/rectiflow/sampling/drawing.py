"""How a recipe of ours says that its model is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rectiflow.config import from_dict
from rectiflow.errors import DataError
from rectiflow.flow.formulations import Formulation, formulation
from rectiflow.sampling.options import SamplingOptions

_OPTIONS = (
    *("num_steps", "solver", "tolerance", "shift"),
    *("guidance_scale", "guidance_method", "guidance_start", "guidance_end"),
    *("zero_init_steps", "apg_eta", "apg_norm", "apg_momentum"),
)
"""Settings of a recipe's `sampling` that are fields of `SamplingOptions`."""


@dataclass(frozen=True)
class Drawing:
    """What drawing needs to know of a model beside its weights.

    Args:
        formulation: What the network's output means.
        options: Of sampling, unless told otherwise.
        unconditional_text: "zeros" or "empty", see `rectiflow.sampling.pipeline.Pipeline`.
    """

    formulation: Formulation
    options: SamplingOptions
    unconditional_text: str


def drawing_of(recipe: Mapping[str, Any], origin: object) -> Drawing:
    """Read `objective.formulation` and `sampling` of a resolved recipe.

    Args:
        recipe: Of a flow run, as JSON keeps it.
        origin: Names the file in an error.

    Raises:
        DataError: If the recipe does not say it, or wrongly.
    """
    try:
        settings = recipe.get("sampling", {})
        name, unconditional = (
            recipe["objective"]["formulation"],
            settings.get("unconditional", "zeros"),
        )
        if not isinstance(name, str) or unconditional not in ("zeros", "empty"):
            raise ValueError(f"formulation {name!r}, unconditional {unconditional!r}")
        return Drawing(formulation(name), options_of(settings), unconditional)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{origin} is damaged: its recipe does not say how to draw: {error!r}"
        ) from error


def options_of(settings: Mapping[str, Any]) -> SamplingOptions:
    """What a recipe's `sampling` section says of drawing.

    Raises:
        ValueError: If an option is of another type, out of range, or two do not go together.
    """
    given = {option: settings[option] for option in _OPTIONS if option in settings}
    return from_dict(SamplingOptions, given)
