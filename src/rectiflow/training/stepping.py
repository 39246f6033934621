"""One optimizer step: microbatches forward and backward, clipping, update, average.

The host waits for the device once a step, and processes talk to each other on the host once a step:
after the last backward pass, when losses and the gradient's norm are read and looked at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
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
from rectiflow.training.parallel import Spread, is_split
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.settings.training import TrainingSettings
from rectiflow.training.state import TrainState
from rectiflow.training.validation import to_device


@dataclass(frozen=True, slots=True)
class Word:
    """What a process says of the run at each step, beside its losses.

    Args:
        stop: Name of the signal that asked it to stop, None if none did.
        is_late: Whether the clock's guard stops the run.
        is_checkpoint_due: Whether a checkpoint is due.
        has_failed: Whether a checkpoint could not be written, as far as it knows yet.
    """

    stop: str | None = None
    is_late: bool = False
    is_checkpoint_due: bool = False
    has_failed: bool = False


class Stepper:
    """Takes steps on one device in one precision, together with the other processes of the job.

    Args:
        objective: Model and loss.
        settings: The `training` section of the recipe.
        ranks: The processes of the job; each computes its own samples of a microbatch.
        say: Gives this process's word, at each step; not called where it is alone.
    """

    def __init__(
        self,
        objective: Objective,
        settings: TrainingSettings,
        ranks: Ranks = ALONE,
        say: Callable[[], Word] = Word,
    ) -> None:
        self.objective, self.settings, self.ranks, self._say = objective, settings, ranks, say
        self.device = resolve_device(settings.device)
        self.precision = resolve_precision(settings.precision, self.device)
        self.heard: Sequence[Word] = ()  # of all processes in the last step, by rank

    @cached_property
    def _spread(self) -> Spread:
        """Made at the first step, when the model is where it trains."""
        return Spread(self.objective, self.ranks)

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
        for k in range(self.settings.num_microbatches):
            batch, draws = next(batches)
            placed = to_device(batch, self.device)
            watch.lap("data_seconds")
            with self._spread.adding(is_last=k + 1 == self.settings.num_microbatches):
                with self.autocast():
                    terms = self._spread.loss(placed, draws)
                watch.lap("forward_seconds")
                self._spread.descend(self._mean(terms))
            parts.append(Part(batch, draws, terms.detached()))
            watch.lap("backward_seconds")
        norm, parts = _on_host(state.optimizers.clip(self.settings.clip_norm), parts)
        norm, terms = self._exchange(norm, parts)
        self._check(state, norm, parts, terms)
        state.optimizers.set_rate(rate)
        state.optimizers.step()
        watch.lap("optimizer_seconds")
        state.step += 1
        state.update_averages()
        state.meter.add("gradient_norm", norm)
        state.meter.add("learning_rate", rate * self.settings.learning_rate)
        for each in terms:
            state.meter.add_terms(each)
        watch.lap("other_seconds")
        for name, seconds in watch.seconds.items():
            state.meter.add(name, seconds)
        state.meter.add("step_seconds", sum(watch.seconds.values()))
        total = sum(each.loss.double().sum().item() for each in terms)
        return {"loss": total / self.settings.batch_size, "gradient_norm": norm}

    def autocast(self) -> torch.autocast:
        """Matrix work in the run's precision.

        Its copies of weights are not kept for a second use, of which there is none, where the
        weights are split: that of a block is on the device while the block is at work.
        """
        return torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=self.precision == "bf16",
            cache_enabled=not is_split(self.ranks),
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

    def _mean(self, terms: Terms) -> Tensor:
        # The sum over the batch size, so that uneven microbatches weigh each sample alike.
        return terms.loss.sum() / self.settings.batch_size

    def _again(self, part: Part) -> Tensor:
        """The mean once more, of this process's samples alone: nothing is summed over processes."""
        with self.autocast():
            return self._mean(self.objective.loss(to_device(part.batch, self.device), part.draws))

    def _exchange(self, norm: float, parts: Sequence[Part]) -> tuple[float, list[Terms]]:
        """The norm, and each microbatch's terms of the samples of all processes in their order.

        All go by one norm, the largest, since machines may round differently; nan, if one is.
        """
        if self.ranks.is_alone:
            return norm, [part.terms for part in parts]
        heard = self.ranks.gather((norm, [_arrays(part.terms) for part in parts], self._say()))
        self.heard = [word for *_, word in heard]
        terms = [_joined([arrays[k] for _, arrays, _ in heard]) for k in range(len(parts))]
        return float(np.max([each for each, *_ in heard])), terms

    def _check(
        self, state: TrainState, norm: float, parts: Sequence[Part], terms: Sequence[Terms]
    ) -> None:
        """Refuse what is not finite, and spikes; all processes come to the same."""
        step, ranks = state.step + 1, self.ranks
        for part, each in zip(parts, terms, strict=True):
            if not bool(each.loss.isfinite().all()):
                where = first_bad_output(state.model, part, lambda p=part: self._again(p), ranks)
                what = "the loss is not finite"
                raise NonFiniteError(explain(what, step, where, parts, ranks))
        if not norm < float("inf"):
            where, bad = first_bad_gradient(
                state.model, parts, lambda part: self._again(part).backward(), ranks
            )
            what = "the gradient is not finite"
            raise NonFiniteError(explain(what, step, where, parts, ranks, bad))
        factor = self.settings.guard.spike_factor
        if spike := spike_of(norm, state.gradient_norms, factor):
            where = largest_gradient(state.model, ranks)
            raise SpikeError(explain(spike, step, where, parts, ranks))
        if factor:
            state.gradient_norms.append(norm)


def _on_host(norm: Tensor, parts: Sequence[Part]) -> tuple[float, list[Part]]:
    """The norm and the parts' terms in float32 on the CPU, all in one transfer."""
    tensors = [each for part in parts for each in part.terms.tensors().values()]
    flat = torch.cat([each.float().reshape(-1) for each in (norm, *tensors)]).cpu()
    first, *values = flat.split([1, *(each.numel() for each in tensors)])
    left = iter(values)
    placed = [
        replace(part, terms=Terms.of({name: next(left) for name in part.terms.tensors()}))
        for part in parts
    ]
    return float(first), placed


def _arrays(terms: Terms) -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in terms.tensors().items()}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> Terms:
    """The terms of the samples of several processes, one after the other."""
    return Terms.of(
        {name: torch.from_numpy(np.concatenate([p[name] for p in parts])) for name in parts[0]}
    )
