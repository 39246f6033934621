"""Keeps the weights of the step whose average has the least validation loss."""

import logging
from collections.abc import Mapping
from typing import Any

from rectiflow.checkpoints import list_best, verify
from rectiflow.errors import DataError
from rectiflow.runs import Run
from rectiflow.training import checkpoint
from rectiflow.training.checkpoint import Checkpoint
from rectiflow.training.state import TrainState
from rectiflow.training.writer import CheckpointWriter

_log = logging.getLogger(__name__)

LOSS = "val_loss_ema"
METRICS = "metrics"


class BestKeeper:
    """Writes RUN/checkpoints/best-<step> whenever the averaged weights reach a new least loss.

    A run that was stopped goes on from a checkpoint that may be older than its best: the steps
    between are the same again, and so is what is kept.

    Args:
        run: The run's folder.
        step: Finished steps; 0 forgets the best of an attempt that left no checkpoint.
        writer: Writes it; all its processes make a keeper and offer alike.
    """

    def __init__(self, run: Run, step: int, writer: CheckpointWriter) -> None:
        self._writer, self._least = writer, writer.ranks.once(lambda: _least_kept(run, step))

    def offer(self, state: TrainState, metrics: Mapping[str, Any]) -> None:
        """Keep the present weights if their average is better than all before.

        Args:
            state: Of the training, after a validation.
            metrics: What the validation found, the same in every process; kept beside the weights.
        """
        if metrics[LOSS] < self._least:
            whole = state.checkpoint()
            tensors = {name: whole.tensors[name] for name in ("model", "ema")}
            kept = Checkpoint(state.step, tensors, {METRICS: metrics})
            self._writer.write(checkpoint.save_best, kept)
            self._least = metrics[LOSS]


def _least_kept(run: Run, step: int) -> float:
    """The least loss of what is kept; leaves that one alone, and none at step 0."""
    if step == 0:
        checkpoint.remove_best(run)
    losses = {}
    for folder in list_best(run):
        try:
            losses[folder] = verify(folder)[METRICS][LOSS]
        except DataError as error:
            _log.warning("%s; set aside as %s", error, checkpoint.set_aside(folder))
    kept = min(losses, key=losses.__getitem__, default=None)
    checkpoint.remove_best(run, but=kept)  # a kill left it between writing and removing
    return float("inf") if kept is None else losses[kept]


def best(run: Run) -> Checkpoint | None:
    """The verified checkpoint of least validation loss; None if the run keeps none.

    Raises:
        DataError: If it is damaged.
    """
    found = [checkpoint.load(folder) for folder in list_best(run)]
    return min(found, key=lambda each: metrics_of(each)[LOSS], default=None)


def metrics_of(kept: Checkpoint) -> Mapping[str, Any]:
    """What the validation of a best checkpoint found, by name."""
    return kept.state[METRICS]
