"""One optimizer step: microbatches forward and backward, clipping, update, average."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.devices import resolve_device, resolve_precision
from rectiflow.errors import NonFiniteError, SpikeError
from rectiflow.training.divergence import (
    Part,
    explain,
    first_bad_gradient,
    first_bad_output,
    largest_gradient,
    spike_of,
)
from rectiflow.training.metrics import Stopwatch
from rectiflow.training.objectives.base import Batch, Objective, Terms
from rectiflow.training.settings.training import TrainingSettings
from rectiflow.training.state import TrainState
from rectiflow.training.validation import to_device


class Stepper:
    """Takes steps on one device in one precision.

    Args:
        objective: Model and loss.
        settings: The `training` section of the recipe.
    """

    def __init__(self, objective: Objective, settings: TrainingSettings) -> None:
        self.objective, self.settings = objective, settings
        self.device = resolve_device(settings.device)
        self.precision = resolve_precision(settings.precision, self.device)

    def step(
        self, state: TrainState, batches: Iterator[tuple[Batch, Draws]], rate: float
    ) -> dict[str, float]:
        """One step at `rate` times the peak learning rates; updates `state`.

        Raises:
            NonFiniteError: If a loss or the gradient is inf or nan; no weight has moved.
            SpikeError: If the gradient is a spike; no weight has moved.
        """
        watch, parts = Stopwatch(), []
        state.model.train()
        for _ in range(self.settings.num_microbatches):
            batch, draws = next(batches)
            placed = to_device(batch, self.device)
            watch.lap("data_seconds")
            terms = self._loss(placed, draws)
            parts.append(Part(batch, draws, _to_cpu(terms)))
            watch.lap("forward_seconds")
            self._check_losses(state, parts)
            self._descend(terms)
            watch.lap("backward_seconds")
        norm = self._update(state, rate, parts)
        watch.lap("optimizer_seconds")
        state.step += 1
        state.update_averages()
        state.meter.add("gradient_norm", norm)
        state.meter.add("learning_rate", rate * self.settings.learning_rate)
        for part in parts:
            state.meter.add_terms(part.terms)
        watch.lap("other_seconds")
        for name, seconds in watch.seconds.items():
            state.meter.add(name, seconds)
        state.meter.add("step_seconds", sum(watch.seconds.values()))
        total = sum(part.terms.loss.double().sum().item() for part in parts)
        return {"loss": total / self.settings.batch_size, "gradient_norm": norm}

    def autocast(self) -> torch.autocast:
        """Matrix work in the run's precision."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, no gradients, the run's precision."""
        model = self.objective.model
        model.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            model.train()

    def _again(self, part: Part) -> Terms:
        return self._loss(to_device(part.batch, self.device), part.draws)

    def _loss(self, batch: Batch, draws: Draws) -> Terms:
        with self.autocast():
            return self.objective.loss(batch, draws)

    def _descend(self, terms: Terms) -> None:
        # The sum over the batch size, so that uneven microbatches weigh each sample alike.
        (terms.loss.sum() / self.settings.batch_size).backward()

    def _check_losses(self, state: TrainState, parts: list[Part]) -> None:
        last = parts[-1]
        if bool(last.terms.loss.isfinite().all()):
            return
        where = first_bad_output(state.model, last, lambda: self._again(last))
        raise NonFiniteError(explain("the loss is not finite", state.step + 1, where, parts))

    def _update(self, state: TrainState, rate: float, parts: list[Part]) -> float:
        norm, step = float(state.optimizers.clip(self.settings.clip_norm)), state.step + 1
        if not norm < float("inf"):
            where, bad = first_bad_gradient(
                state.model, parts, lambda part: self._descend(self._again(part))
            )
            raise NonFiniteError(explain("the gradient is not finite", step, where, parts, bad))
        factor = self.settings.guard.spike_factor
        if spike := spike_of(norm, state.gradient_norms, factor):
            raise SpikeError(explain(spike, step, largest_gradient(state.model), parts))
        if factor:
            state.gradient_norms.append(norm)
        state.optimizers.set_rate(rate)
        state.optimizers.step()
        return norm


def _to_cpu(terms: Terms) -> Terms:
    def plain(values: Tensor) -> Tensor:
        return values.detach().float().cpu()

    extra = {name: plain(values) for name, values in terms.extra.items()}
    return Terms(plain(terms.loss), None if terms.t is None else plain(terms.t), extra)
