"""Batches of pictures with captions, straight from records: what encoders are trained on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.data.order import Order
from rectiflow.data.records import BadRecord, RecordSource


class PictureSource:
    """Pictures of a source of records, decoded or drawn when asked for: a `BatchSource`.

    Args:
        records: Where pictures and captions come from.
        seed: Key of the order.
        rows: The records to use; None for all.
        shuffle: False reads them in their order.

    Raises:
        ValueError: If there are no records.
    """

    def __init__(
        self,
        records: RecordSource,
        *,
        seed: int,
        rows: np.ndarray | None = None,
        shuffle: bool = True,
    ) -> None:
        self._records = records
        self._rows = rows
        num = len(records) if rows is None else len(rows)
        self._order = Order(num, seed, shuffle=shuffle)

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        return self._order.num_samples

    def batch(self, positions: np.ndarray, draws: Draws) -> Mapping[str, Any]:
        """Samples at `positions`: `image` (batch, 3, side, side) in [-1, 1], `captions`, `ids`.

        Raises:
            BadRecord: If a picture cannot be decoded; `usable_rows` finds those beforehand.
        """
        indices = self._order.indices(positions)
        if self._rows is not None:
            indices = self._rows[indices]
        records = [self._records.record(int(index)) for index in indices]
        return {
            "image": as_images([record.load().image for record in records]),
            "captions": [dict(record.captions) for record in records],
            "ids": [record.id for record in records],
        }


def as_images(pictures: list[np.ndarray]) -> Tensor:
    """Pictures as bytes, each (side, side, 3), to floats in [-1, 1], (batch, 3, side, side)."""
    stacked = torch.from_numpy(np.stack(pictures))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def usable_rows(records: RecordSource) -> tuple[np.ndarray, list[BadRecord]]:
    """Rows whose pictures can be decoded, int64, and what is wrong with the others.

    Every picture is decoded once, so this is for own folders, not for scenes.

    Raises:
        ValueError: If none can be used.
    """
    rows, bad = [], []
    for index in range(len(records)):
        try:
            records.record(index).load()
        except BadRecord as error:
            bad.append(error)
        else:
            rows.append(index)
    if not rows:
        raise ValueError(f"none of {len(bad)} pictures can be used; the first: {bad[0]}")
    return np.asarray(rows, dtype=np.int64), bad
