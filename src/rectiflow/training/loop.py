"""The training loop: one for every recipe, the same on every machine.

What a run computes is a function of its recipe and the step. The clock enters twice: once, when
`training.minutes` becomes a number of steps, and as a guard that stops late runs with a checkpoint.
"""

import dataclasses
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rectiflow.checkpoints import step_of
from rectiflow.errors import DivergenceError
from rectiflow.machine import num_cores, processor
from rectiflow.runs import Run, write_json
from rectiflow.training import checkpoint
from rectiflow.training.averages import keep_averages
from rectiflow.training.batches import Batches
from rectiflow.training.best import BestKeeper
from rectiflow.training.evaluation import Evaluation, GivenUpError, Observer, Validate
from rectiflow.training.metrics import MetricsLog
from rectiflow.training.objectives.base import BatchSource, Objective
from rectiflow.training.retention import remove_sheets
from rectiflow.training.roll_backs import RollBack, add_roll_back, read_roll_backs
from rectiflow.training.schedule import rate_factor, steps_in
from rectiflow.training.settings.training import PACE_STEPS, TrainingSettings
from rectiflow.training.signals import StopRequest
from rectiflow.training.starting import explaining_the_disk, starting_state
from rectiflow.training.stepping import Stepper
from rectiflow.training.writer import CheckpointWriter

_log = logging.getLogger(__name__)

CLOCK_GUARD = 1.5
"""A run given in minutes stops, with a checkpoint, at this multiple of them."""

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
        DivergenceError: On a loss or gradient that is inf or nan, or a spike, unless the run rolls
            back; its diverged.json tells it.
        DataError: If every checkpoint is damaged.
        DiskFullError: If the disk is full; earlier checkpoints are intact.
        PermissionError: If the run's folder cannot be written; the same holds.
    """
    with explaining_the_disk(run):
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
        self.state = starting_state(objective, settings, run, self.stepper)
        if self.state.step == 0:  # of an attempt that left no checkpoint
            run.roll_backs_path.unlink(missing_ok=True)
        self.batches = Batches(
            source,
            seed,
            settings.batch_size,
            settings.num_microbatches,
            settings.num_workers,
            read_roll_backs(run),
            is_pinned=self.stepper.device.type == "cuda",
        )
        self.num_steps = settings.num_steps
        if settings.minutes is not None and (pace := run.pace()) is not None:
            self.num_steps = int(pace["num_steps"])
        self.latest: dict[str, Any] = {}
        self._pace_seconds: list[float] = []
        self._started = self._last_tick = self._last_checkpoint = time.monotonic()
        self._saved_step = self._step_at_hand = self.state.step
        self.stop_request = StopRequest()
        self.evaluation = Evaluation(self.stepper, self.state, self.stop_request)
        self.writer = CheckpointWriter(run, is_async=settings.async_checkpoints)
        keeps_best = settings.retain.best
        self.best = BestKeeper(run, self.state.step, self.writer) if keeps_best else None

    def run(self, facts: Mapping[str, Any]) -> Result:
        if self._is_finished() and self.folder.result_path.exists():
            self._recall_metrics()
            return self._result("finished", f"{self.folder.folder} is finished")
        checkpoint.remove_leftovers(self.folder)
        self.folder.diverged_path.unlink(missing_ok=True)
        with self._in_place(), self._noting_divergence(), self.stop_request as stop, self.writer:
            while self.state.owes_line or not self._is_finished():
                try:
                    self._advance()
                except DivergenceError as error:
                    self._roll_back(error)
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

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        self._take_place()
        try:
            yield
        finally:
            self._leave_place()

    def _take_place(self) -> None:
        """Be where the state is: what is written of later steps is cut off, to be made again."""
        step = self.state.step
        checkpoint.remove_averages_after(self.folder, step)
        logged = step - 1 if self.state.owes_line else step
        self.log = MetricsLog(self.folder, logged, self.settings.trackers)
        self._recall_metrics()
        self._feed = self.batches.after(step)

    def _leave_place(self) -> None:
        self._feed.close()
        self.log.close()

    def _roll_back(self, error: DivergenceError) -> None:
        """Go on from the newest checkpoint with other samples, or raise `error` on."""
        newest = self._newest_if_allowed(error)
        failed, step = self._step_at_hand, step_of(newest)
        self.log.sync()
        self._leave_place()
        add_roll_back(self.folder, RollBack(failed, step, str(error)))
        _log.warning("%s; rolled back to the checkpoint of step %d", error, step)
        self.state.optimizers.zero_grad()
        self.state.restore(newest)
        self.batches = dataclasses.replace(self.batches, roll_backs=read_roll_backs(self.folder))
        self._saved_step = step
        self._pace_seconds.clear()
        self._take_place()

    def _newest_if_allowed(self, error: DivergenceError) -> Path:
        guard, taken = self.settings.guard, len(self.batches.roll_backs)
        if guard.on_divergence == "stop":
            raise error
        if taken >= guard.max_roll_backs:
            raise type(error)(
                f"{error}; rolled back {taken} times before, training.guard.max_roll_backs "
                f"allows {guard.max_roll_backs}"
            ) from error
        self.writer.finish()
        newest = checkpoint.newest_whole(self.folder)
        if newest is None:
            raise type(error)(f"{error}; there is no checkpoint to roll back to") from error
        return newest

    def _recall_metrics(self) -> None:
        """Take up what earlier processes logged: the result does not tell where one stopped."""
        self.latest = {}
        for row in self.folder.metrics():
            self.latest |= {name: value for name, value in row.items() if name != "step"}

    def _advance(self) -> None:
        if self.state.owes_line:
            self._log_or_owe()
        else:
            self._one_step()

    def _one_step(self) -> None:
        state = self.state
        rate = rate_factor(state.step, self.num_steps, self.settings)
        started = time.perf_counter()
        self._step_at_hand = state.step + 1
        self.writer.check()
        metrics = self.stepper.step(state, self._feed, rate)
        seconds = time.perf_counter() - started
        self._settle_pace(seconds)
        self._keep_averages()
        self._log_or_owe()
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
            keep_averages(self.state, settings, self.settings.retain.num_averages, self.writer)

    def _log_or_owe(self) -> None:
        """Log, unless a stop is asked for meanwhile: then the resumed run does it first of all."""
        try:
            self._log_what_is_due()
            self.state.owes_line = False
        except GivenUpError:
            self.state.owes_line = True

    def _log_what_is_due(self) -> None:
        line: dict[str, Any] = {}
        if self._due(self.settings.log_every_steps):
            line |= self.state.meter.means()
            line["samples_per_second"] = self.settings.batch_size / line["step_seconds"]
        if self.hooks.validate is not None and self._due(self.settings.validate_every_steps):
            started = time.perf_counter()
            validated = self.evaluation.validate(self.hooks.validate)
            line |= validated
            if self.best is not None:
                self.best.offer(self.state, validated)
            line["validation_seconds"] = time.perf_counter() - started
        if self.hooks.observers and self._due(self.settings.sample_every_steps):
            line |= self.evaluation.observe(self.hooks.observers)
            every_steps, retain = self.settings.sample_every_steps, self.settings.retain
            remove_sheets(self.folder, every_steps, retain.num_sheets)
        if line:
            line["elapsed_seconds"] = self.state.elapsed_seconds
            self.log.write(self.state.step, line)
            self.latest |= line
        if self._due(self.settings.log_every_steps):
            self.state.meter.clear()

    @contextmanager
    def _noting_divergence(self) -> Iterator[None]:
        try:
            yield
        except DivergenceError as error:
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
        cadences = (steps, self.settings.retain.every_steps)
        return by_clock or any(each > 0 and self.state.step % each == 0 for each in cadences)

    def _save(self) -> None:
        if self.state.step > self._saved_step:
            self.log.sync()
            self.writer.write(checkpoint.save, self.state.checkpoint(), self.settings.retain)
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
        taken = len(self.batches.roll_backs)
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
            **({"roll_backs": taken} if taken else {}),
            **facts,
        }
