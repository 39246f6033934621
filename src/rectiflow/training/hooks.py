"""What a caller of the loop gives to it, and what it gets back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rectiflow.training.evaluation import Observer, Validate

Status = Literal["finished", "interrupted", "out_of_time"]

Progress = Callable[[int, int | None, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a call of `train` ended.

    Args:
        status: `finished`; `interrupted` by a signal; `out_of_time` by the clock's guard.
        step: Finished steps.
        num_steps: Steps of the whole run, None if they are not known yet.
        metrics: Last value of every metric logged in the run.
        message: One line for the user.
    """

    status: Status
    step: int
    num_steps: int | None
    metrics: Mapping[str, Any]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the caller adds to the loop.

    Args:
        validate: Metrics of a model on held-out data, called for the weights and for their average.
        observers: Called at the cadence of picture grids; what they return is logged.
        on_progress: Called after every step with (step, num_steps or None, metrics).
        facts: Further entries of result.json.
    """

    validate: Validate | None = None
    observers: Sequence[Observer] = ()
    on_progress: Progress | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
