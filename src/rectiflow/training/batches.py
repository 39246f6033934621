"""Batches of the steps to come: sample positions, their draws and their data."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from rectiflow.data.draws import Draws
from rectiflow.training.objectives.base import Batch, BatchSource
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.roll_backs import RollBack, num_skipped


@dataclass(frozen=True, slots=True)
class Batches:
    """The microbatches of every step, functions of the step and of the roll-backs alone.

    A step's positions are split into microbatches, and each of those into what every rank takes,
    always in contiguous parts. So the samples of a step are the same at any number of ranks.

    Args:
        source: Samples by position.
        seed: Seed of the run.
        batch_size: Samples of a step.
        num_microbatches: Parts of a step.
        num_workers: Threads that prepare microbatches ahead; 0 prepares them when asked.
        roll_backs: Those of the run so far, for the samples that are passed over.
        ranks: The processes that share each microbatch.
        is_pinned: Whether tensors are put into memory that a CUDA device copies from by itself.
    """

    source: BatchSource
    seed: int
    batch_size: int
    num_microbatches: int
    num_workers: int = 0
    roll_backs: Sequence[RollBack] = ()
    ranks: Ranks = ALONE
    is_pinned: bool = False

    def after(self, step: int) -> Generator[tuple[Batch, Draws], None, None]:
        """Microbatches from the one that follows `step` finished steps on, without end."""
        if self.num_workers == 0:
            for draws in self._draws(step):
                yield self._load(draws)
        with ThreadPoolExecutor(self.num_workers) as pool:
            ahead: deque[Future[tuple[Batch, Draws]]] = deque()
            try:
                for draws in self._draws(step):
                    ahead.append(pool.submit(self._load, draws))
                    if len(ahead) > self.num_workers:
                        yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _draws(self, step: int) -> Iterator[Draws]:
        while True:
            start = (step + num_skipped(self.roll_backs, step)) * self.batch_size
            positions = np.arange(start, start + self.batch_size, dtype=np.int64)
            for part in np.array_split(positions, self.num_microbatches):
                yield Draws(self.seed, self.ranks.share(part))
            step += 1

    def _load(self, draws: Draws) -> tuple[Batch, Draws]:
        batch = self.source.batch(draws.positions, draws)
        if self.is_pinned:
            batch = {name: _pinned(value) for name, value in batch.items()}
        return batch, draws


def _pinned(value: Any) -> Any:
    return value.pin_memory() if hasattr(value, "pin_memory") else value
