"""The training loop: one for every recipe, the same on every machine.

What a run computes is a function of its recipe and the step. The clock enters twice: once, when
`training.minutes` becomes a number of steps, and as a guard that stops late runs with a checkpoint.
"""

import errno
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rectiflow.errors import DiskFullError, NonFiniteError
from rectiflow.machine import num_cores, processor
from rectiflow.runs import Run, write_json
from rectiflow.training import checkpoint
from rectiflow.training.averages import further_averages, keep_averages
from rectiflow.training.batches import Batches
from rectiflow.training.best import BestKeeper
from rectiflow.training.ema import Ema, exponential
from rectiflow.training.metrics import MetricsLog
from rectiflow.training.objectives.base import BatchSource, Objective
from rectiflow.training.optim import Optimizers
from rectiflow.training.resume import load_initial
from rectiflow.training.schedule import rate_factor, steps_in
from rectiflow.training.settings import PACE_STEPS, TrainingSettings
from rectiflow.training.signals import StopRequest
from rectiflow.training.state import TrainState
from rectiflow.training.stepping import Stepper

CLOCK_GUARD = 1.5
"""A run given in minutes stops, with a checkpoint, at this multiple of them."""

Validate = Callable[[nn.Module], Mapping[str, Any]]
Observer = Callable[[TrainState], Mapping[str, float]]
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

    status: Literal["finished", "interrupted", "out_of_time"]
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
    """

    validate: Validate | None = None
    observers: Sequence[Observer] = ()
    on_progress: Progress | None = None


def train(
    objective: Objective,
    source: BatchSource,
    settings: TrainingSettings,
    run: Run,
    *,
    seed: int,
    hooks: Hooks | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Result:
    """Train `objective` until its last step, a signal or the clock's guard; resume if begun.

    Args:
        objective: Model and loss; the model is moved to the device and trained in place.
        source: Samples by position.
        settings: The `training` section of the recipe.
        run: Its folder; `resume.claim` has checked that it is this recipe's.
        seed: Seed of all draws.
        hooks: Validation, observers and progress.
        facts: Further entries of result.json.

    Raises:
        NonFiniteError: On a loss or gradient that is inf or nan; the run's diverged.json tells it.
        DataError: If the newest checkpoint is damaged.
        DiskFullError: If the disk is full; earlier checkpoints are intact.
    """
    with _explaining_a_full_disk(run):
        return _Loop(objective, source, settings, run.create(), seed, hooks or Hooks()).run(
            facts or {}
        )


class _Loop:
    def __init__(
        self,
        objective: Objective,
        source: BatchSource,
        settings: TrainingSettings,
        run: Run,
        seed: int,
        hooks: Hooks,
    ) -> None:
        self.settings, self.folder, self.hooks = settings, run, hooks
        self.stepper = Stepper(objective, settings)
        self.state = _starting_state(objective, settings, run, self.stepper)
        self.batches = Batches(
            source, seed, settings.batch_size, settings.num_microbatches, settings.num_workers
        )
        self.num_steps = settings.num_steps
        if settings.minutes is not None and (pace := run.pace()) is not None:
            self.num_steps = int(pace["num_steps"])
        self.latest: dict[str, Any] = {}
        self._pace_seconds: list[float] = []
        self._started = self._last_tick = self._last_checkpoint = time.monotonic()
        self._saved_step = self.state.step
        self.best = BestKeeper(run, self.state.step) if settings.keep_best else None

    def run(self, facts: Mapping[str, Any]) -> Result:
        if self._is_finished() and self.folder.result_path.exists():
            self._recall_metrics()
            return self._result("finished", f"{self.folder.folder} is finished")
        checkpoint.remove_leftovers(self.folder)
        checkpoint.remove_averages_after(self.folder, self.state.step)
        self.folder.diverged_path.unlink(missing_ok=True)
        self.log = MetricsLog(self.folder, self.state.step)
        self._recall_metrics()
        batches = self.batches.after(self.state.step)
        with closing(self.log), closing(batches), self._noting_divergence(), StopRequest() as stop:
            while not self._is_finished():
                self._one_step(batches)
                if stop.name:
                    return self._stop("interrupted", f"stopped by {stop.name}")
                if self._is_late():
                    minutes = self.settings.minutes
                    return self._stop(
                        "out_of_time", f"stopped by the clock at {CLOCK_GUARD} x {minutes} minutes"
                    )
            self._save()
        write_json(self.folder.result_path, self._report(facts))
        return self._result("finished", f"finished {self.state.step} steps in {self.folder.folder}")

    def _recall_metrics(self) -> None:
        """Take up what earlier processes logged: the result does not tell where one stopped."""
        for row in self.folder.metrics():
            self.latest |= {name: value for name, value in row.items() if name != "step"}

    def _one_step(self, batches: Any) -> None:
        state = self.state
        rate = rate_factor(state.step, self.num_steps, self.settings)
        started = time.perf_counter()
        metrics = self.stepper.step(state, batches, rate)
        seconds = time.perf_counter() - started
        self._settle_pace(seconds)
        self._keep_averages()
        self._log_what_is_due()
        if self.hooks.on_progress is not None:
            self.hooks.on_progress(state.step, self.num_steps, {**self.latest, **metrics})
        now = time.monotonic()
        state.elapsed_seconds += now - self._last_tick
        self._last_tick = now
        if self._checkpoint_is_due(now):
            self._save()

    def _settle_pace(self, seconds: float) -> None:
        """Turn minutes into steps, once: after the last of PACE_STEPS, before any decay."""
        if self.num_steps is not None:
            return
        first, last = PACE_STEPS
        if self.state.step >= first:
            self._pace_seconds.append(seconds)
        if self.state.step == last:
            minutes = self.settings.minutes or 0.0
            pace = sum(self._pace_seconds) / len(self._pace_seconds)
            self.num_steps = steps_in(minutes, pace)
            record = {"minutes": minutes, "step_seconds": pace, "num_steps": self.num_steps}
            write_json(self.folder.pace_path, record)

    def _keep_averages(self) -> None:
        settings = self.settings.averages
        if settings.widths and self._due(settings.snapshot_every_steps):
            keep_averages(self.state, settings)

    def _log_what_is_due(self) -> None:
        line: dict[str, Any] = {}
        if self._due(self.settings.log_every_steps):
            line |= self.state.meter.means()
            self.state.meter.clear()
            line["samples_per_second"] = self.settings.batch_size / line["step_seconds"]
        if self.hooks.validate is not None and self._due(self.settings.validate_every_steps):
            started = time.perf_counter()
            validated = self._validate(self.hooks.validate)
            line |= validated
            if self.best is not None:
                self.best.offer(self.state, validated)
            line["validation_seconds"] = time.perf_counter() - started
        if self.hooks.observers and self._due(self.settings.sample_every_steps):
            with self.stepper.evaluating():
                for observe in self.hooks.observers:
                    line |= observe(self.state)
        if line:
            line["elapsed_seconds"] = self.state.elapsed_seconds
            self.log.write(self.state.step, line)
            self.latest |= line

    def _validate(self, validate: Validate) -> dict[str, Any]:
        model = self.state.model
        with self.stepper.evaluating():
            line = dict(validate(model))
            with self.state.ema.applied():
                line |= {f"{name}_ema": value for name, value in validate(model).items()}
            for label, average in self.state.averages.items():
                with average.applied():
                    line |= {f"{name}_{label}": value for name, value in validate(model).items()}
        for name in ("val_loss", "val_loss_ema"):
            if not math.isfinite(line.get(name, 0.0)):
                raise NonFiniteError(f"{name} is not finite at step {self.state.step}")
        return line

    @contextmanager
    def _noting_divergence(self) -> Iterator[None]:
        try:
            yield
        except NonFiniteError as error:
            facts = {"step": self.state.step, "why": str(error)}
            write_json(self.folder.diverged_path, facts)
            raise

    def _due(self, every: int) -> bool:
        return self._is_finished() or (every > 0 and self.state.step % every == 0)

    def _is_finished(self) -> bool:
        return self.num_steps is not None and self.state.step >= self.num_steps

    def _is_late(self) -> bool:
        minutes = self.settings.minutes
        if minutes is None or self._is_finished():
            return False
        # This process alone counts, so that the same command can go on.
        return time.monotonic() - self._started > CLOCK_GUARD * minutes * 60

    def _checkpoint_is_due(self, now: float) -> bool:
        if self._is_finished():
            return False  # the last one is written after the loop
        minutes, steps = (
            self.settings.checkpoint_every_minutes,
            self.settings.checkpoint_every_steps,
        )
        by_clock = minutes > 0 and now - self._last_checkpoint >= minutes * 60
        return by_clock or (steps > 0 and self.state.step % steps == 0)

    def _save(self) -> None:
        if self.state.step > self._saved_step:
            self.log.sync()
            checkpoint.save(self.folder, self.state.checkpoint(), self.settings.keep_checkpoints)
        self._saved_step, self._last_checkpoint = self.state.step, time.monotonic()

    def _stop(self, status: Literal["interrupted", "out_of_time"], why: str) -> Result:
        self._save()
        message = (
            f"{why}: checkpoint of step {self.state.step} written to {self.folder.checkpoints}; "
            "the same command resumes"
        )
        return self._result(status, message)

    def _result(
        self, status: Literal["finished", "interrupted", "out_of_time"], message: str
    ) -> Result:
        return Result(status, self.state.step, self.num_steps, self.latest, message)

    def _report(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "status": "finished",
            "num_steps": self.num_steps,
            "images_seen": self.state.step * self.settings.batch_size,
            "num_parameters": sum(p.numel() for p in self.state.model.parameters()),
            "metrics": self.latest,
            "elapsed_seconds": self.state.elapsed_seconds,
            "device": str(self.stepper.device),
            "precision": self.stepper.precision,
            "torch": torch.__version__,
            "machine": f"{processor()}, cores: {num_cores()}, {platform.system()}",
            **facts,
        }


def _starting_state(
    objective: Objective, settings: TrainingSettings, run: Run, stepper: Stepper
) -> TrainState:
    """The newest checkpoint, else the weights of `init_from`, else the model as it came."""
    model = objective.model.to(stepper.device)
    newest = checkpoint.newest(run)
    if newest is None and settings.init_from is not None:
        load_initial(model, settings.init_from)
    optimizers = Optimizers(objective, settings)
    ema = Ema(model, exponential(settings.ema_decay))
    averages = further_averages(model, settings.averages)
    state = TrainState(run, model, ema, optimizers, stepper.precision, averages=averages)
    if newest is not None:
        state.restore(checkpoint.load(newest))
    return state


@contextmanager
def _explaining_a_full_disk(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, DiskFullError):
            raise
        newest = checkpoint.newest(run)
        kept = f"the last one, {newest}, is intact" if newest else "none was written before"
        raise DiskFullError(
            f"the disk of {run.folder} is full; of the checkpoints {kept}; "
            "free some space and run the same command to resume"
        ) from error
