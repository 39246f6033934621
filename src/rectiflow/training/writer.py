"""Writes checkpoints beside the training: what they hold is copied, a thread does the rest."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rectiflow.runs import Run
from rectiflow.training.checkpoint import Checkpoint, Frozen
from rectiflow.training.ranks import ALONE, Ranks

Save = Callable[..., Path]
"""One of `checkpoint.save`, `save_best` and `save_averages`."""


LAST_SECONDS = 5.0
"""How long a process of several that ends by an error waits for the checkpoint at hand."""


class CheckpointWriter:
    """Writes one checkpoint after another, in the order they were asked for.

    All processes ask for the same ones in the same order. A checkpoint costs the training the time
    to copy its tensors to host memory; who asks for the next one waits for the one at hand. What
    goes wrong is raised by whatever is called next here. A context of it ends with all written.

    Args:
        run: The run's folder.
        ranks: The processes that write together.
        is_async: Whether a thread writes; otherwise who asks waits for the disk.
    """

    def __init__(self, run: Run, ranks: Ranks = ALONE, is_async: bool = True) -> None:
        self.ranks = ranks
        self._run, self._is_async = run, is_async
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.finish()
        elif self._thread is not None:
            # What was begun is worth ending, unless the others that it takes may be gone.
            self._thread.join(None if self.ranks.is_alone else LAST_SECONDS)

    def write(self, save: Save, checkpoint: Checkpoint, *args: Any) -> None:
        """Have `save(run, checkpoint, *args, ranks)` done."""
        self.finish()
        if not self._is_async:
            save(self._run, checkpoint, *args, self.ranks)
            return
        frozen = checkpoint.frozen(self.ranks, is_copied=True)
        # A daemon: a process that ends by an error does not wait for others that are gone.
        self._thread = threading.Thread(
            target=self._work,
            args=(save, frozen, args, _current_gpu()),
            name="checkpoint",
            daemon=True,
        )
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether something went wrong so far that is not yet raised; waits for nothing."""
        return self._failure is not None

    def finish(self) -> None:
        """Wait until all that was asked for is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _work(self, save: Save, frozen: Frozen, args: tuple[Any, ...], gpu: int | None) -> None:
        if gpu is not None:  # else torch would open the first one in every process
            torch.cuda.set_device(gpu)
        try:
            save(self._run, frozen, *args, self.ranks)
        except BaseException as error:
            self._failure = error


def _current_gpu() -> int | None:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else None
