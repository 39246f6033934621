"""The records that a recipe's `data` section names, split into trained on and held out."""

import logging
from collections import Counter
from pathlib import Path

from rectiflow.checkpoints import list_checkpoints
from rectiflow.data.file_cache import FileCache
from rectiflow.data.folder import FolderRecords
from rectiflow.data.manifest import json_hash
from rectiflow.data.picture_source import PictureSource, usable_rows
from rectiflow.data.scene_records import VALIDATION_SEED, SceneRecords
from rectiflow.data.store import Store
from rectiflow.data.store_files import default_cache
from rectiflow.preparation.prepared import split_ids
from rectiflow.runs import Run, read_json, write_json
from rectiflow.training.settings.data import AnyData, PictureData, ScenesData, StoreData

_log = logging.getLogger(__name__)


def scenes_of(data: ScenesData) -> SceneRecords:
    """The scenes trained on."""
    return SceneRecords(data.seed, data.num_scenes, data.size_px)


def cache_of(data: StoreData) -> FileCache:
    """Where the files of a store behind a URL are kept."""
    folder = default_cache() if data.cache_dir is None else Path(data.cache_dir)
    return FileCache(folder, data.cache_bytes)


def data_identity(data: AnyData) -> str:
    """Hash of what a recipe trains on, pictures and captions: of contents, not of times or places.

    Reads every file of an own folder, and only the manifest of a store.
    """
    if isinstance(data, StoreData):
        paths = [data.store] if data.validation is None else [data.store, data.validation]
        stores = [Store.open(path, cache_of(data)) for path in paths]
        return json_hash([store.manifest.content_hash for store in stores])
    if isinstance(data, ScenesData):
        return json_hash(scenes_of(data).description())
    return FolderRecords(data.path, data.size_px).content_hash()


def claim_data(run: Run, identity: str) -> None:
    """Note what a run trains on, or check that it still is the same.

    A path in a recipe stays the same when what lies there does not: a picture added to the folder,
    an autoencoder trained again.

    Raises:
        ValueError: If a begun run would go on with other data.
        DataError: If the run's note is damaged.
    """
    if run.data_path.exists() and list_checkpoints(run):
        if read_json(run.data_path).get("identity") == identity:
            return
        raise ValueError(
            f"{run.folder} cannot resume: its pictures, captions or encoders are no longer those "
            "it began with; bring them back, or start from its weights with another run folder and "
            f"--set training.init_from={run.folder}"
        )
    write_json(run.data_path, {"identity": identity})


def picture_sources(data: PictureData, seed: int) -> tuple[PictureSource, PictureSource]:
    """Pictures to train on, in an order keyed by `seed`, and held-out ones, in their own order.

    Raises:
        ValueError: If a folder holds no usable picture.
    """
    if isinstance(data, ScenesData):
        training = scenes_of(data)
        held_out = SceneRecords(VALIDATION_SEED, data.num_validation, data.size_px)
        return (
            PictureSource(training, seed=seed),
            PictureSource(held_out, seed=seed, shuffle=False),
        )
    records = FolderRecords(data.path, data.size_px)
    rows, bad = usable_rows(records)
    for reason, num in sorted(Counter(each.reason for each in records.quarantined).items()):
        _log.warning("left out: %d x %s", num, reason)
    for error in bad:
        _log.warning("left out: %s", error)
    trained, held_out = split_ids([records.record(int(i)).id for i in rows], data.num_validation)
    return (
        PictureSource(records, seed=seed, rows=rows[trained]),
        PictureSource(records, seed=seed, rows=rows[held_out], shuffle=False),
    )
