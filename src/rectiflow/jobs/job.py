"""What every kind of recipe gives to the one loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rectiflow.runs import Run
from rectiflow.training.hooks import Hooks
from rectiflow.training.objectives.base import BatchSource, Objective

Progress = Callable[[str, int, int | None, Mapping[str, Any]], None]
"""Called as progress(stage, done, total or None while it is not known, facts)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A recipe made ready to train.

    Args:
        objective: Model and loss.
        source: Samples to train on.
        hooks: Validation and observers of the loop.
        finish: Called once the last step is reached, with averaged weights in the model; writes
            the run's export and returns what is added to result.json.
        facts: What is known beforehand and belongs into result.json.
    """

    objective: Objective
    source: BatchSource
    hooks: Hooks
    finish: Callable[[Run], Mapping[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)
