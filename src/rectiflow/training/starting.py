"""Where a run starts from, and what to say when its disk does not let it go on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rectiflow.checkpoints import newest
from rectiflow.errors import FULL_DISK, DiskFullError
from rectiflow.runs import Run
from rectiflow.training.averages import further_averages
from rectiflow.training.checkpoint import newest_whole
from rectiflow.training.ema import Ema, exponential
from rectiflow.training.engine import prepare_network
from rectiflow.training.objectives.base import Objective
from rectiflow.training.optim import Optimizers
from rectiflow.training.parallel import is_split, shard
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.resume import load_initial
from rectiflow.training.settings.training import TrainingSettings
from rectiflow.training.state import TrainState
from rectiflow.training.stepping import Stepper


def starting_state(
    objective: Objective,
    settings: TrainingSettings,
    run: Run,
    stepper: Stepper,
    ranks: Ranks = ALONE,
) -> TrainState:
    """That of the newest checkpoint, else of `init_from`'s weights, else of the model as it came.

    Raises:
        DataError: If there are checkpoints and every one is damaged.
    """
    model = objective.model
    if not is_split(ranks):
        model.to(stepper.device)  # else it never is there as a whole
    prepare_network(model, settings.speed, stepper.device)
    found = newest_whole(run, ranks)
    if found is None and settings.init_from is not None:
        load_initial(model, settings.init_from)
    shard(model, ranks)
    optimizers = Optimizers(objective, settings, ranks)
    ema = Ema(model, exponential(settings.ema_decay))
    averages = further_averages(model, settings.averages)
    precision = stepper.precision
    state = TrainState(run, model, ema, optimizers, precision, averages=averages, ranks=ranks)
    if found is not None:
        state.restore(found, ranks)
    return state


_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def explaining_the_disk(run: Run) -> Iterator[None]:
    """Where the run's folder is full or can no longer be written, say which checkpoint is intact.

    Raises:
        DiskFullError: If the disk is full.
        PermissionError: If the folder does not let itself be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or not (
            error.errno in FULL_DISK or _is_closed(error, run)
        ):
            raise
        last = newest(run)
        kept = f"the last one, {last}, is intact" if last else "none was written before"
        if error.errno in FULL_DISK:
            raise DiskFullError(
                f"the disk of {run.folder} is full; of the checkpoints {kept}; "
                "free some space and run the same command to resume"
            ) from error
        raise PermissionError(
            f"{run.folder} cannot be written to: {error.strerror}, {error.filename}; of the "
            f"checkpoints {kept}; make it writable and run the same command to resume"
        ) from error


def _is_closed(error: OSError, run: Run) -> bool:
    is_ours = error.filename is not None and Path(error.filename).is_relative_to(run.folder)
    return is_ours and error.errno in _CLOSED
