"""Validation and observers between the steps of training, given up where a stop is asked for.

All processes of a job evaluate together: they call the model equally often.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from rectiflow.errors import NonFiniteError
from rectiflow.training.signals import StopRequest
from rectiflow.training.state import TrainState
from rectiflow.training.stepping import Stepper

Validate = Callable[[nn.Module], Mapping[str, Any]]
Observer = Callable[[TrainState], Mapping[str, Any]]


class GivenUpError(Exception):
    """An evaluation was given up because a stop is asked for."""


class Evaluation:
    """Evaluates the weights and their averages.

    It may take minutes, and who sends SIGTERM kills soon after: once a stop is asked for, it ends
    with a `GivenUpError` at the model's next call, in all processes.

    Args:
        stepper: Gives mode and precision.
        state: Of the training; it is as before once an evaluation ends.
        stop: Whether a stop is asked for.
    """

    def __init__(self, stepper: Stepper, state: TrainState, stop: StopRequest) -> None:
        self._stepper, self._state, self._stop = stepper, state, stop

    def validate(self, validate: Validate) -> dict[str, Any]:
        """Metrics of the weights, and of each average with its name behind theirs.

        Raises:
            NonFiniteError: If the loss of the weights or of their average is inf or nan.
        """
        model = self._state.model
        with self._evaluating():
            line = dict(validate(model))
            for label, average in {"ema": self._state.ema, **self._state.averages}.items():
                with average.applied():
                    line |= {f"{name}_{label}": value for name, value in validate(model).items()}
        for name in ("val_loss", "val_loss_ema"):
            if not math.isfinite(line.get(name, 0.0)):
                raise NonFiniteError(f"{name} is not finite at step {self._state.step}")
        return line

    def observe(self, observers: Sequence[Observer]) -> dict[str, Any]:
        """What the observers return, together."""
        line: dict[str, Any] = {}
        with self._evaluating():
            for observe in observers:
                line |= observe(self._state)
        return line

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        ranks = self._stepper.ranks

        def check(*_: Any) -> None:
            if any(ranks.gather(self._stop.name)):
                raise GivenUpError

        model = self._state.model
        # A model may be called by its parts; what is split is not, and processes agree each time.
        parts = model.children() if ranks.is_alone else ()
        handles = [m.register_forward_pre_hook(check) for m in (model, *parts)]
        try:
            with self._stepper.evaluating():
                yield
        finally:
            for handle in handles:
                handle.remove()
