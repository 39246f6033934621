"""The kinds of training data, scenes, own folders and stores, with rows held out for validation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rectiflow.data.file_cache import FileCache
from rectiflow.data.folder import FolderRecords
from rectiflow.data.scene_records import VALIDATION_SEED, SceneRecords
from rectiflow.data.store import Store
from rectiflow.preparation.encode import Encoders
from rectiflow.preparation.prepare import Batching, OnProgress, prepare_store

MAX_VALIDATION_SHARE = 0.1
"""Most of an own folder that is held out, whatever `num_validation` says; one picture at least."""


@dataclass(frozen=True)
class Prepared:
    """What training and validation read.

    Args:
        training: Rows trained on are `training_rows` of this store, None meaning all.
        validation: The same for the held-out rows.
        training_rows: Shape (num,), int64.
        validation_rows: Shape (num,), int64.
    """

    training: Store
    validation: Store
    training_rows: np.ndarray | None
    validation_rows: np.ndarray


def prepare_scenes(
    encoders: Encoders,
    folder: Path | str,
    *,
    seed: int,
    num_scenes: int,
    num_validation: int,
    size_px: int,
    batching: Batching | None = None,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Encode scenes into `folder`/training, and held-out ones into `folder`/validation.

    The held-out scenes have a seed of their own, so validation losses of runs that differ in seed
    or number of scenes are measured on the same pictures.

    Raises:
        ValueError: If `seed` is that seed; and as `prepare_store`.
    """
    if seed == VALIDATION_SEED:
        raise ValueError(f"scenes of seed {seed} are held out for validation; choose another seed")
    folder = Path(folder)
    total = num_scenes + num_validation
    stores = []
    for name, source in (
        ("validation", SceneRecords(VALIDATION_SEED, num_validation, size_px)),
        ("training", SceneRecords(seed, num_scenes, size_px)),
    ):
        before = sum(len(store) for store in stores)
        report = _shifted(on_progress, before, total)
        stores.append(prepare_store(source, encoders, folder / name, batching, report))
    validation, training = stores
    return Prepared(training, validation, None, np.arange(len(validation)))


def prepare_folder(
    encoders: Encoders,
    folder: Path | str,
    *,
    path: Path | str,
    size_px: int,
    num_validation: int,
    batching: Batching | None = None,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Encode an own folder of pictures into `folder`/pictures and hold some rows out.

    Raises:
        ValueError: If no picture in it can be used; and as `prepare_store`.
    """
    source = FolderRecords(path, size_px)
    store = prepare_store(source, encoders, Path(folder) / "pictures", batching, on_progress)
    training, validation = split_rows(store, num_validation)
    return Prepared(store, store, training, validation)


def open_prepared(
    encoders: Encoders,
    *,
    path: Path | str,
    validation: Path | str | None,
    size_px: int,
    num_validation: int,
    cache: FileCache | None = None,
) -> Prepared:
    """Open a store that was encoded before, and one of held-out records or rows of the same.

    Their files are not hashed, which may be terabytes; `rectiflow data verify` does that.

    Args:
        encoders: Those of the recipe, which must have made both stores.
        path: Folder or URL of the store.
        validation: That of the held-out records; None holds out rows as `split_rows`.
        size_px: Side of the pictures that both stores must have.
        num_validation: Most rows that are held out.
        cache: For files behind a URL.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If one was made by other encoders, of pictures of another side, or is empty.
        DataError: If a manifest is damaged or a file has the wrong size.
    """
    store = _opened(path, encoders, size_px, cache)
    if validation is None:
        return Prepared(store, store, *split_rows(store, num_validation))
    held_out = _opened(validation, encoders, size_px, cache)
    rows = _ranked_by_hash(held_out.ids(range(len(held_out))))[:num_validation]
    return Prepared(store, held_out, None, np.sort(rows))


def _opened(path: Path | str, encoders: Encoders, size_px: int, cache: FileCache | None) -> Store:
    store = Store.open(path, cache)
    store.require_encoders(encoders.stamp())
    if store.manifest.size_px != size_px:
        raise ValueError(
            f"data.size_px must be {store.manifest.size_px}, that of the pictures in {path}, "
            f"got {size_px}"
        )
    return store


def split_rows(store: Store, num_validation: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and rows held out, chosen by a hash of their ids, both ascending.

    At most `MAX_VALIDATION_SHARE` is held out. A store of one row is validated on that row.
    """
    return split_ids(store.ids(range(len(store))), num_validation)


def split_ids(ids: Sequence[str], num_validation: int) -> tuple[np.ndarray, np.ndarray]:
    """As `split_rows`, for rows given by their ids."""
    num = len(ids)
    held_out = max(1, min(num_validation, int(num * MAX_VALIDATION_SHARE)))
    ranked = _ranked_by_hash(ids)
    training = ranked[held_out:] if num > 1 else ranked
    return np.sort(training), np.sort(ranked[:held_out])


def _ranked_by_hash(ids: Sequence[str]) -> np.ndarray:
    keys = [hashlib.sha256(id.encode()).digest() for id in ids]
    return np.asarray(sorted(range(len(ids)), key=keys.__getitem__), dtype=np.int64)


def _shifted(on_progress: OnProgress | None, before: int, total: int) -> OnProgress | None:
    """Report one store's records as part of all."""
    if on_progress is None:
        return None
    return lambda done, _: on_progress(before + done, total)
