"""Records to an encoded store, made once and then reused."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow.data.manifest import MANIFEST, SAMPLE_ARRAYS, Manifest, json_hash
from rectiflow.data.records import CAPTION_NAMES, RecordSource
from rectiflow.data.store import QUARANTINE, Store
from rectiflow.errors import DiskFullError
from rectiflow.preparation.encode import Encoders, encode_shard
from rectiflow.preparation.writing import (
    StoreWriter,
    is_ready_to_publish,
    publish,
    sole_writer,
)

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How the work is cut; nothing of it is visible in a finished store but the size of its files.

    Args:
        batch_size: Pictures, and captions, per call of an encoder.
        records_per_shard: Records per pair of files.
        max_shard_bytes: Shards are made shorter where their records are large.
        num_threads: Threads that load pictures.
    """

    batch_size: int = 256
    records_per_shard: int = 16_384
    max_shard_bytes: int = 1 << 28
    num_threads: int = 4

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")


def prepare_store(
    source: RecordSource,
    encoders: Encoders,
    folder: Path | str,
    batching: Batching | None = None,
    on_progress: OnProgress | None = None,
) -> Store:
    """Encode all records of `source` into `folder`, or open it if it holds exactly that already.

    The store appears under its name when it is whole. Interrupted, the same call goes on after the
    last finished shard.

    Args:
        source: The records.
        encoders: What encodes them.
        folder: The store to be; absent or empty, unless it holds this very store.
        batching: How the work is cut.
        on_progress: Called with the number of records done, and of all.

    Raises:
        ValueError: If `folder` holds something else, another process is making it, or no record
            can be used.
        DiskFullError: If the disk is full, or will be.
        DataError: If `folder` holds this store, damaged.
    """
    folder, batching = Path(folder), batching or Batching()
    blank = _blank_manifest(source, encoders)
    if (folder / MANIFEST).is_file():  # whole, so any number of processes may read it at once
        return _reopen(folder, blank)
    with sole_writer(folder):
        if is_ready_to_publish(folder) and not folder.exists():
            publish(folder)
        if (folder / MANIFEST).is_file():
            return _reopen(folder, blank)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is in the way: it is not empty, and not an encoded store")
        _encode_all(source, encoders, folder, blank, batching, on_progress or _no_report)
    return Store.open(folder)


def summary(store: Store) -> str:
    """One line for a person: how many records, how many left out and why."""
    manifest = store.manifest
    parts = [f"{manifest.num_records} records encoded"]
    if manifest.num_quarantined:
        left_out = f"{manifest.num_quarantined} quarantined ({_counts(manifest.quarantine)})"
        parts.append(f"{left_out}, listed in {store.folder / QUARANTINE}")
    if manifest.num_enlarged:
        parts.append(f"{manifest.num_enlarged} enlarged to {manifest.size_px} px")
    if manifest.num_cut:
        parts.append(f"{manifest.num_cut} captions cut to what the text encoders hold")
    return "; ".join(parts)


def _blank_manifest(source: RecordSource, encoders: Encoders) -> Manifest:
    if source.caption_names not in CAPTION_NAMES:
        raise ValueError(f"captions must be one of {CAPTION_NAMES}, got {source.caption_names}")
    parent = dict(source.description())
    return Manifest(
        parent=parent,
        parent_hash=json_hash(parent),
        encoders=encoders.stamp(),
        size_px=source.size_px,
        captions=source.caption_names,
        arrays=encoders.arrays(source.size_px),
        shards=(),
        quarantine={},
    )


def _reopen(folder: Path, blank: Manifest) -> Store:
    store = Store.open(folder)
    store.verify()  # hashing costs far less than the training that would read a flipped byte
    store.require_encoders(blank.encoders)
    names = ("parent", "size_px", "captions", "arrays")
    differ = [
        n for n in names if json_hash(_plain(store.manifest, n)) != json_hash(_plain(blank, n))
    ]
    if differ:
        raise ValueError(
            f"{folder} holds a store of something else (other {', '.join(differ)}); "
            "choose another folder, or remove it"
        )
    return store


def _encode_all(
    source: RecordSource,
    encoders: Encoders,
    folder: Path,
    blank: Manifest,
    batching: Batching,
    report: OnProgress,
) -> None:
    per_shard = _records_per_shard(blank, batching)
    plan = {"manifest": asdict(blank), "per_shard": per_shard, "batch_size": batching.batch_size}
    writer = StoreWriter(folder, json.loads(json.dumps(plan)))
    done = 0

    def on_batch(num: int) -> None:
        nonlocal done
        done += num
        report(done, len(source))

    with ThreadPoolExecutor(batching.num_threads) as threads:
        for number, first in enumerate(range(0, len(source), per_shard)):
            indices = range(first, min(first + per_shard, len(source)))
            if number in writer.done:
                on_batch(len(indices))
                continue
            shard = encode_shard(
                source,
                indices,
                encoders,
                blank.arrays,
                batch_size=batching.batch_size,
                threads=threads,
                on_batch=on_batch,
            )
            writer.write_shard(number, indices, shard)
            _require_room(writer, done, len(source))
    _finish(writer, source, blank)


def _finish(writer: StoreWriter, source: RecordSource, blank: Manifest) -> None:
    finished = [writer.done[number] for number in sorted(writer.done)]
    quarantined = [*source.quarantined, *(bad for _, records in finished for bad in records)]
    counts = dict(Counter(record.reason for record in quarantined).most_common())
    shards = tuple(shard for shard, _ in finished)
    manifest = replace(blank, shards=shards, quarantine=counts)
    if manifest.num_records == 0:
        writer.discard()
        first = quarantined[0]
        raise ValueError(
            f"none of {len(quarantined)} records can be used ({_counts(counts)}); "
            f"first, {first.id}: {first.detail or first.reason}"
        )
    writer.finish(manifest, quarantined)


def _records_per_shard(blank: Manifest, batching: Batching) -> int:
    """At most what fits into `max_shard_bytes` if no caption repeats."""
    sizes = {n: math.prod(a.shape) * np.dtype(a.dtype).itemsize for n, a in blank.arrays.items()}
    of_sample = sum(sizes.pop(name) for name in SAMPLE_ARRAYS)
    record = of_sample + len(blank.captions) * sum(sizes.values())
    return max(1, min(batching.records_per_shard, batching.max_shard_bytes // record))


def _require_room(writer: StoreWriter, done: int, total: int) -> None:
    """Say now that the disk will fill up, rather than hours later."""
    needed = writer.num_bytes * (total - done) // done
    free = shutil.disk_usage(writer.partial).free
    if needed > free:
        raise DiskFullError(
            f"encoding the other {total - done} records takes about {needed / 1e9:.2f} GB and "
            f"{writer.folder.parent} has {free / 1e9:.2f} GB left; make room and repeat: what was "
            f"encoded so far waits in {writer.partial}"
        )


def _plain(manifest: Manifest, name: str) -> Any:
    return asdict(manifest)[name]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {num}" for reason, num in counts.items())


def _no_report(done: int, total: int) -> None:
    """No progress wanted."""
