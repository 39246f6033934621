"""Batches for training out of an encoded store."""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.data.order import Order
from rectiflow.data.store import Store


class StoreSource:
    """Training batches out of a store: a `BatchSource` of the training loop.

    Args:
        store: Where the rows are.
        seed: Key of the order and nothing else; caption choice is keyed by the loop's draws.
        states: Called with the text states as keywords, each (batch, ...); the type that the
            objective expects.
        synthetic_fraction: Chance of the `synthetic` caption where a record has both kinds; the
            paper trains on half (arXiv 2403.03206, 5.2.2). No effect on single captions.
        rows: The rows to use, ascending; None for all.
        shuffle: False reads rows in their order.
        latent: "mean" of each latent's posterior, or a "sample" of it, keyed by the loop's draws:
            another one each time that a picture comes up.

    Raises:
        ValueError: If there are no rows, they do not ascend, or the fraction is not in [0, 1].
    """

    def __init__(
        self,
        store: Store,
        *,
        seed: int,
        states: Callable[..., Any],
        synthetic_fraction: float = 0.5,
        rows: np.ndarray | None = None,
        shuffle: bool = True,
        latent: Literal["mean", "sample"] = "mean",
    ) -> None:
        if not 0 <= synthetic_fraction <= 1:
            raise ValueError(f"synthetic_fraction must be in [0, 1], got {synthetic_fraction}")
        self.store = store
        self._states = states
        self._synthetic_fraction = synthetic_fraction
        self._rows = rows
        self._is_drawn = latent == "sample"
        sizes = store.shard_sizes(rows)
        self._order = Order(int(sizes.sum()), seed, shard_sizes=sizes, shuffle=shuffle)
        store.require_room(self._order.window if shuffle else 1)
        self._window = np.empty(0, dtype=np.int64)

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        return self._order.num_samples

    def batch(self, positions: np.ndarray, draws: Draws) -> dict[str, Any]:
        """Samples at `positions` (batch,): `latent`, `states` and `ids`, in the stored types.

        A drawn latent is float32, as the mean.
        """
        self._look_ahead(int(positions.min()))
        indices = self._order.indices(positions)
        if self._rows is not None:
            indices = self._rows[indices]
        batch = self.store.rows(indices, self._choice(draws), with_log_variance=self._is_drawn)
        if self._is_drawn:
            batch["latent"] = _drawn(batch["latent"], batch.pop("log_variance"), draws)
        return {**batch, "states": self._states(**batch["states"])}

    def _look_ahead(self, position: int) -> None:
        """Have the shards that follow fetched, once per window."""
        windows = self._order.windows_from(position)
        window = next(windows)
        if not np.array_equal(window, self._window):
            self._window = window
            self.store.expect(itertools.chain([window], windows))

    def _choice(self, draws: Draws) -> np.ndarray | None:
        names = self.store.manifest.captions
        if "synthetic" not in names:
            return None
        is_synthetic = draws.uniform("caption").numpy() < self._synthetic_fraction
        return np.where(is_synthetic, names.index("synthetic"), names.index("alt"))


def _drawn(mean: Tensor, log_variance: Tensor, draws: Draws) -> Tensor:
    """The mean + exp(log_variance / 2) noise, each sample with noise of its own."""
    std = log_variance.float().div_(2).exp_()
    return mean + std * draws.normal("posterior", mean.shape[1:])
