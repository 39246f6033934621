"""The records that a recipe's `data` section names, split into trained on and held out."""

import logging

from rectiflow.data.folder import FolderRecords
from rectiflow.data.picture_source import PictureSource, usable_rows
from rectiflow.data.scene_records import VALIDATION_SEED, SceneRecords
from rectiflow.preparation.prepared import split_ids
from rectiflow.training.settings import FolderData, ScenesData

_log = logging.getLogger(__name__)


def picture_sources(
    data: ScenesData | FolderData, seed: int
) -> tuple[PictureSource, PictureSource]:
    """Pictures to train on, in an order keyed by `seed`, and held-out ones, in their own order.

    Raises:
        ValueError: If a folder holds no usable picture.
    """
    if isinstance(data, ScenesData):
        training = SceneRecords(data.seed, data.num_scenes, data.size_px)
        held_out = SceneRecords(VALIDATION_SEED, data.num_validation, data.size_px)
        return (
            PictureSource(training, seed=seed),
            PictureSource(held_out, seed=seed, shuffle=False),
        )
    records = FolderRecords(data.path, data.size_px)
    rows, bad = usable_rows(records)
    for error in bad:
        _log.warning("left out: %s", error)
    trained, held_out = split_ids([records.record(int(i)).id for i in rows], data.num_validation)
    return (
        PictureSource(records, seed=seed, rows=rows[trained]),
        PictureSource(records, seed=seed, rows=rows[held_out], shuffle=False),
    )
