"""One optimizer step: microbatches forward and backward, clipping, update, average."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.devices import resolve_device, resolve_precision
from rectiflow.errors import NonFiniteError
from rectiflow.training.metrics import NUM_TIME_BINS, Stopwatch, time_bins
from rectiflow.training.objectives.base import Batch, Objective, Terms
from rectiflow.training.settings import TrainingSettings
from rectiflow.training.state import TrainState
from rectiflow.training.validation import to_device

_MOST_IDS = 20


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
        """One step at `rate` times the peak learning rates; updates `state`."""
        watch, seen = Stopwatch(), []
        state.model.train()
        for _ in range(self.settings.num_microbatches):
            batch, draws = next(batches)
            batch = to_device(batch, self.device)
            watch.lap("data_seconds")
            with self.autocast():
                terms = self.objective.loss(batch, draws)
            detached = _to_cpu(terms)
            watch.lap("forward_seconds")
            seen.append((detached, _ids(batch, draws)))
            if not bool(detached.loss.isfinite().all()):
                raise NonFiniteError(_explain("the loss", state.step + 1, seen))
            # The sum over the batch size, so that uneven microbatches weigh each sample alike.
            (terms.loss.sum() / self.settings.batch_size).backward()
            watch.lap("backward_seconds")
        norm = self._update(state, rate, seen)
        watch.lap("optimizer_seconds")
        state.step += 1
        state.update_averages()
        state.meter.add("gradient_norm", norm)
        state.meter.add("learning_rate", rate * self.settings.learning_rate)
        for detached, _ in seen:
            state.meter.add_terms(detached)
        watch.lap("other_seconds")
        for name, seconds in watch.seconds.items():
            state.meter.add(name, seconds)
        state.meter.add("step_seconds", sum(watch.seconds.values()))
        total = sum(detached.loss.double().sum().item() for detached, _ in seen)
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
        with torch.no_grad(), self.autocast():
            yield
        model.train()

    def _update(self, state: TrainState, rate: float, seen: list[Any]) -> float:
        norm = float(state.optimizers.clip(self.settings.clip_norm))
        if not norm < float("inf"):
            raise NonFiniteError(_explain("the gradient", state.step + 1, seen))
        state.optimizers.set_rate(rate)
        state.optimizers.step()
        return norm


def _to_cpu(terms: Terms) -> Terms:
    def plain(values: Tensor) -> Tensor:
        return values.detach().float().cpu()

    extra = {name: plain(values) for name, values in terms.extra.items()}
    return Terms(plain(terms.loss), None if terms.t is None else plain(terms.t), extra)


def _ids(batch: Batch, draws: Draws) -> list[str]:
    """Names of the samples; a source without them is named by position."""
    return [str(each) for each in batch.get("ids", draws.positions)]


def _explain(what: str, step: int, seen: list[tuple[Terms, list[str]]]) -> str:
    """Step, mean loss per tenth of time, and which samples (all, if every loss is finite)."""
    loss = torch.cat([terms.loss for terms, _ in seen])
    ids = [name for _, names in seen for name in names]
    bad = [name for name, ok in zip(ids, loss.isfinite().tolist(), strict=True) if not ok] or ids
    listed = ", ".join(bad[:_MOST_IDS]) + (", ..." if len(bad) > _MOST_IDS else "")
    times = [terms.t for terms, _ in seen if terms.t is not None]
    bins = ""
    if times:
        tenth = torch.from_numpy(time_bins(torch.cat(times)))
        means = [loss[tenth == k].mean().item() for k in range(NUM_TIME_BINS)]
        bins = "; mean loss per tenth of t: " + " ".join(
            f"{mean:.4g}" if (tenth == k).any() else "-" for k, mean in enumerate(means)
        )
    return f"{what} is not finite at step {step}{bins}; {len(bad)} samples: {listed}"
