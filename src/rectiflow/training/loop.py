"""The training loop: one for every recipe, the same on every machine.

What a run computes is a function of its recipe and the step. The clock enters twice: once, when
`training.minutes` becomes a number of steps, and as a guard that stops late runs with a checkpoint.
"""

import dataclasses
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rectiflow.checkpoints import step_of
from rectiflow.errors import DivergenceError
from rectiflow.machine import num_cores, processor
from rectiflow.runs import Run, write_json
from rectiflow.training import checkpoint
from rectiflow.training.averages import keep_averages
from rectiflow.training.batches import Batches
from rectiflow.training.best import BestKeeper
from rectiflow.training.evaluation import Evaluation, GivenUpError
from rectiflow.training.hooks import Hooks, Result, Status
from rectiflow.training.metrics import MetricsLog
from rectiflow.training.objectives.base import BatchSource, Objective
from rectiflow.training.parallel import check_batch
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.retention import remove_sheets
from rectiflow.training.roll_backs import RollBack, add_roll_back, read_roll_backs
from rectiflow.training.schedule import pace_of, rate_factor, steps_in
from rectiflow.training.settings.training import PACE_STEPS, TrainingSettings
from rectiflow.training.signals import StopRequest
from rectiflow.training.starting import explaining_the_disk, starting_state
from rectiflow.training.stepping import Stepper, Word
from rectiflow.training.writer import CheckpointWriter

_log = logging.getLogger(__name__)

CLOCK_GUARD = 1.5
"""A run given in minutes stops, with a checkpoint, at this multiple of them."""


def train(
    objective: Objective,
    source: BatchSource,
    settings: TrainingSettings,
    run: Run,
    *,
    seed: int,
    hooks: Hooks | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Train `objective` until its last step, a signal or the clock's guard; resume if begun.

    All processes of a job call it alike. Rank 0 alone writes what is not a checkpoint, and its
    clock counts.

    Args:
        objective: Model and loss; the model is moved to the device and trained in place.
        source: Samples by position.
        settings: The `training` section of the recipe.
        run: Its folder; `resume.claim` has checked that it is this recipe's.
        seed: Seed of all draws.
        hooks: Validation, observers, progress and facts.
        ranks: The processes of the job.

    Raises:
        ValueError: If a microbatch has not one sample for each process.
        DivergenceError: On a loss or gradient that is inf or nan, or a spike, unless the run rolls
            back; its diverged.json tells it.
        DataError: If every checkpoint is damaged.
        DiskFullError: If the disk is full; earlier checkpoints are intact.
        PermissionError: If the run's folder cannot be written; the same holds.
    """
    check_batch(settings, ranks)
    with explaining_the_disk(run):
        loop = _Loop(objective, source, settings, run.create(), seed, hooks or Hooks(), ranks)
        return loop.run()


class _Loop:
    def __init__(
        self,
        objective: Objective,
        source: BatchSource,
        settings: TrainingSettings,
        run: Run,
        seed: int,
        hooks: Hooks,
        ranks: Ranks,
    ) -> None:
        self.settings, self.folder, self.hooks, self.ranks = settings, run, hooks, ranks
        self.stepper = Stepper(objective, settings, ranks, self._word)
        self.state = starting_state(objective, settings, run, self.stepper, ranks)
        if self.state.step == 0:  # of an attempt that left no checkpoint
            ranks.once(lambda: run.roll_backs_path.unlink(missing_ok=True))
        self.batches = Batches(
            source,
            seed,
            settings.batch_size,
            settings.num_microbatches,
            settings.num_workers,
            ranks.once(lambda: read_roll_backs(run)),
            ranks,
            is_pinned=self.stepper.device.type == "cuda",
        )
        self.num_steps = settings.num_steps
        if settings.minutes is not None and (pace := ranks.once(run.pace)) is not None:
            self.num_steps = int(pace["num_steps"])
        self.latest: dict[str, Any] = {}
        self._pace_seconds: list[float] = []
        self._started = self._last_tick = self._last_checkpoint = time.monotonic()
        self._saved_step = self._step_at_hand = self.state.step
        self.stop_request = StopRequest()
        self.evaluation = Evaluation(self.stepper, self.state, self.stop_request)
        self.writer = CheckpointWriter(run, ranks, settings.async_checkpoints)
        keeps_best = settings.retain.best
        self.best = BestKeeper(run, self.state.step, self.writer) if keeps_best else None

    def run(self) -> Result:
        self.ranks.once(self._clear)
        if self._is_finished() and self.ranks.once(self.folder.result_path.exists):
            self.latest = self.ranks.once(self._recalled)
            return self._result("finished", f"{self.folder.folder} is finished")
        with self._in_place(), self._noting_divergence(), self.stop_request, self.writer:
            while self.state.owes_line or not self._is_finished():
                try:
                    self._advance()
                except DivergenceError as error:
                    self._roll_back(error)
                word = self._agreed()
                if word.stop:
                    return self._stop("interrupted", f"stopped by {word.stop}")
                if word.is_late and not self._is_finished():
                    minutes = self.settings.minutes
                    return self._stop(
                        "out_of_time", f"stopped by the clock at {CLOCK_GUARD} x {minutes} minutes"
                    )
            self._save()
        self.ranks.once(lambda: write_json(self.folder.result_path, self._report()))
        return self._result("finished", f"finished {self.state.step} steps in {self.folder.folder}")

    def _clear(self) -> None:
        checkpoint.tidy(self.folder, self.settings)
        self.folder.diverged_path.unlink(missing_ok=True)

    def _word(self) -> Word:
        now = time.monotonic()
        minutes, every = self.settings.minutes, self.settings.checkpoint_every_minutes * 60
        # This process alone counts, so that the same command can go on.
        is_late = minutes is not None and now - self._started > CLOCK_GUARD * minutes * 60
        is_due = every > 0 and now - self._last_checkpoint >= every
        return Word(self.stop_request.name, is_late, is_due, self.writer.has_failed)

    def _agreed(self) -> Word:
        """What all say, told at the last step or, where none was taken, now; rank 0 has the clock.

        A process that is alone looks at its clock now in any case.
        """
        heard = self.stepper.heard
        if not heard or self.state.owes_line:
            heard = self.ranks.gather(self._word())
        stop = next((word.stop for word in heard if word.stop), None)
        return dataclasses.replace(heard[0], stop=stop)

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
        self.ranks.once(lambda: checkpoint.remove_averages_after(self.folder, step))
        logged = step - 1 if self.state.owes_line else step
        is_first, trackers = self.ranks.is_first, self.settings.trackers
        self.log = MetricsLog(self.folder, logged, trackers) if is_first else None
        self.latest = self.ranks.once(self._recalled)
        self._feed = self.batches.after(step)

    def _leave_place(self) -> None:
        self._feed.close()
        if self.log is not None:
            self.log.close()

    def _roll_back(self, error: DivergenceError) -> None:
        """Go on from the newest checkpoint with other samples, or raise `error` on."""
        newest = self._newest_if_allowed(error)
        failed, step = self._step_at_hand, step_of(newest)
        self._sync_log()
        self._leave_place()
        taken = RollBack(failed, step, str(error))
        self.ranks.once(lambda: add_roll_back(self.folder, taken))
        _log.warning("%s; rolled back to the checkpoint of step %d", error, step)
        self.state.optimizers.zero_grad()
        self.state.restore(newest, self.ranks)
        roll_backs = self.ranks.once(lambda: read_roll_backs(self.folder))
        self.batches = dataclasses.replace(self.batches, roll_backs=roll_backs)
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
        newest = checkpoint.newest_whole(self.folder, self.ranks)
        if newest is None:
            raise type(error)(f"{error}; there is no checkpoint to roll back to") from error
        return newest

    def _recalled(self) -> dict[str, Any]:
        """What earlier processes logged: the result does not tell where one stopped."""
        latest: dict[str, Any] = {}
        for row in self.folder.metrics():
            latest |= {name: value for name, value in row.items() if name != "step"}
        return latest

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
        self._tell_of_failed_checkpoints()
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
        if self._checkpoint_is_due():
            self._save()

    def _tell_of_failed_checkpoints(self) -> None:
        """Raise in all processes, at the same step, what any of them knows of by the last one."""
        heard = [self._word()] if self.ranks.is_alone else self.stepper.heard
        if any(word.has_failed for word in heard):
            self.writer.finish()  # raises: the writers have told each other

    def _settle_pace(self, seconds: float) -> None:
        """Turn minutes into steps, once: after the last of PACE_STEPS, before any decay."""
        if self.num_steps is not None:
            return
        first, last = PACE_STEPS
        if self.state.step >= first:
            self._pace_seconds.append(seconds)
        if self.state.step == last:
            minutes = self.settings.minutes or 0.0
            pace = self.ranks.first(pace_of(self._pace_seconds))
            self.num_steps = steps_in(minutes, pace)
            record = {"minutes": minutes, "step_seconds": pace, "num_steps": self.num_steps}
            self.ranks.once(lambda: write_json(self.folder.pace_path, record))

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
            self.ranks.once(lambda: remove_sheets(self.folder, every_steps, retain.num_sheets))
        if line:
            line["elapsed_seconds"] = self.state.elapsed_seconds
            if self.log is not None:
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
            if self.ranks.is_first:
                write_json(self.folder.diverged_path, facts)
            raise

    def _due(self, every: int) -> bool:
        return self._is_finished() or (every > 0 and self.state.step % every == 0)

    def _is_finished(self) -> bool:
        return self.num_steps is not None and self.state.step >= self.num_steps

    def _checkpoint_is_due(self) -> bool:
        if self._is_finished():
            return False  # the last one is written after the loop
        cadences = (self.settings.checkpoint_every_steps, self.settings.retain.every_steps)
        by_step = any(every > 0 and self.state.step % every == 0 for every in cadences)
        return by_step or self._agreed().is_checkpoint_due

    def _sync_log(self) -> None:
        if self.log is not None:
            self.log.sync()

    def _save(self) -> None:
        if self.state.step > self._saved_step:
            self._sync_log()
            self.writer.write(checkpoint.save, self.state.checkpoint(), self.settings.retain)
        self._saved_step, self._last_checkpoint = self.state.step, time.monotonic()

    def _stop(self, status: Status, why: str) -> Result:
        self._save()
        message = (
            f"{why}: checkpoint of step {self.state.step} written to {self.folder.checkpoints}; "
            "the same command resumes"
        )
        return self._result(status, message)

    def _result(self, status: Status, message: str) -> Result:
        return Result(status, self.state.step, self.num_steps, self.latest, message)

    def _report(self) -> dict[str, Any]:
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
            **self.hooks.facts,
        }
