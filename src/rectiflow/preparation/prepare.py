"""Records to an encoded store, made once by any number of workers and then reused."""

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow.data.manifest import MANIFEST, SAMPLE_ARRAYS, Manifest, json_hash
from rectiflow.data.records import CAPTION_NAMES, RecordSource
from rectiflow.data.store import QUARANTINE, Store
from rectiflow.errors import DataError, DiskFullError
from rectiflow.preparation.claims import Claims, clear_locks, working_on
from rectiflow.preparation.encode import Encoders, encode_shard
from rectiflow.preparation.writing import (
    StoreWriter,
    is_free,
    is_ready_to_publish,
    partial_folder,
    publish,
    telling_of_full_disk,
)

OnProgress = Callable[[int, int], None]

WAIT_SECONDS = 0.2
"""Between two looks at what other workers make."""


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


@dataclass(frozen=True)
class Share:
    """Which shards a worker makes: every `of`-th from `number` on, both counted from 1."""

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"a share is i/n with 1 <= i <= n, got {self.number}/{self.of}")

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Read "2/8"."""
        number, slash, of = text.partition("/")
        if not slash or not (number.isdecimal() and of.isdecimal()):
            raise ValueError(f"a share is i/n with 1 <= i <= n, got {text!r}")
        return cls(int(number), int(of))


def prepare_store(
    source: RecordSource,
    encoders: Encoders,
    folder: Path | str,
    batching: Batching | None = None,
    on_progress: OnProgress | None = None,
) -> Store:
    """Encode all records of `source` into `folder`, or open it if it holds exactly that already.

    The store appears under its name when it is whole. Interrupted, the same call goes on after the
    last finished shard. Any number of processes may make the same call at once: they share the
    work, shard by shard, and all return when the store is whole. Its bytes are the same.

    Args:
        source: The records.
        encoders: What encodes them.
        folder: The store to be; absent or empty, unless it holds this very store.
        batching: How the work is cut; the same for all workers.
        on_progress: Called with the number of records done, and of all.

    Raises:
        ValueError: If `folder` holds something else, another process is encoding something else
            into it, or no record can be used.
        DiskFullError: If the disk is full, or will be.
        DataError: If `folder` holds this store, damaged.
    """
    while True:
        store = encode_share(source, encoders, folder, None, batching, on_progress)
        if store is not None:
            return store  # else whoever finished it found that it was nothing: we find that too


def encode_share(
    source: RecordSource,
    encoders: Encoders,
    folder: Path | str,
    share: Share | None,
    batching: Batching | None = None,
    on_progress: OnProgress | None = None,
) -> Store | None:
    """As `prepare_store`, but only some of the shards; waits for nobody.

    What another plan began and nobody goes on with is an error here, while the whole of a store is
    then begun anew.

    Returns:
        The store if it is whole, as it is for the last of its workers; None before.
    """
    folder, batching = Path(folder), batching or Batching()
    blank = _blank_manifest(source, encoders)
    if (folder / MANIFEST).is_file():  # whole, so any number of processes may read it at once
        clear_locks(folder, partial_folder(folder))
        return _reopen(folder, blank)
    work = _Work(source, encoders, blank, batching, share, on_progress or _no_report)
    writer = StoreWriter(folder)
    with telling_of_full_disk(folder), working_on(folder, writer.partial) as claims:
        is_whole = not _set_up(writer, work.plan, claims, may_start_over=share is None)
        if not is_whole:
            work.run(writer, claims)
            with claims.alone():
                if writer.is_open and all(writer.has(n) for n in range(work.num_shards)):
                    _finish(writer, source, blank)
    if is_whole:
        return _reopen(folder, blank)
    return Store.open(folder) if (folder / MANIFEST).is_file() else None


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
    with _saying_how_to_mend(folder):
        store = Store.open(folder)
    store.require_encoders(blank.encoders)
    names = {"parent": "source", "size_px": "size_px", "captions": "captions", "arrays": "arrays"}
    differ = [
        said
        for name, said in names.items()
        if json_hash(_plain(store.manifest, name)) != json_hash(_plain(blank, name))
    ]
    if differ:
        raise ValueError(
            f"{folder} holds a store of something else (other {', '.join(differ)}); "
            "choose another folder, or remove it"
        )
    with _saying_how_to_mend(folder):
        store.verify()  # hashing costs far less than the training that would read a flipped byte
    return store


@contextmanager
def _saying_how_to_mend(folder: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; remove {folder} and repeat, to encode it again") from error


def _set_up(
    writer: StoreWriter, plan: Mapping[str, Any], claims: Claims, may_start_over: bool
) -> bool:
    """Join the workers of this plan, the first of whom begins it; False if the store is whole."""
    folder = writer.folder
    if is_ready_to_publish(folder):
        publish(folder)
    if (folder / MANIFEST).is_file():
        return False
    if not is_free(folder):
        raise ValueError(f"{folder} is in the way: it is not empty, and not an encoded store")
    if not writer.has_plan(plan):
        if writer.is_open and claims.are_others_here():
            raise ValueError(
                f"another process is encoding something else into {folder}, or in other batches; "
                "wait for it to end, or choose another folder"
            )
        if writer.is_open and not may_start_over:  # other shares may have taken days
            raise ValueError(
                f"{writer.partial} holds shards of something else, or in other batches; remove "
                "it, or choose another folder"
            )
        writer.start(plan)
    claims.join()
    return True


class _Work:
    """The shards that one worker makes, or waits for.

    Attributes:
        num_shards: Of the whole store.
        plan: What all workers must agree on.
    """

    def __init__(
        self,
        source: RecordSource,
        encoders: Encoders,
        blank: Manifest,
        batching: Batching,
        share: Share | None,
        report: OnProgress,
    ) -> None:
        self._source, self._encoders, self._blank = source, encoders, blank
        self._batching, self._share, self._report = batching, share, report
        self._per_shard = per_shard = _records_per_shard(blank, batching)
        self.num_shards = -(-len(source) // per_shard)
        facts = {"manifest": asdict(blank), "per_shard": per_shard}
        self.plan = json.loads(json.dumps({**facts, "batch_size": batching.batch_size}))
        every = range(self.num_shards)
        self._mine = every if share is None else every[share.number - 1 :: share.of]
        self._total = sum(len(self._indices(number)) for number in self._mine)
        self._done = 0

    def run(self, writer: StoreWriter, claims: Claims) -> None:
        """Make what no other worker makes; without a share, wait until all of it is made."""
        left = list(self._mine)
        with ThreadPoolExecutor(self._batching.num_threads) as threads:
            while left and writer.is_open:
                missing = [n for n in left if not self._is_made(n, writer, claims, threads)]
                if len(missing) == len(left):
                    if self._share is not None:
                        return
                    time.sleep(WAIT_SECONDS)
                left = missing

    def _is_made(self, number: int, writer: StoreWriter, claims: Claims, threads: Executor) -> bool:
        """Make a shard unless it is made; False if another worker is at it."""
        indices = self._indices(number)
        if writer.has(number):
            self._on_batch(len(indices))
            return True
        with claims.shard(number) as is_mine:
            # In this order: finished meanwhile, or all of it published meanwhile.
            if not is_mine or writer.has(number) or not writer.is_open:
                return False
            shard = encode_shard(
                self._source,
                indices,
                self._encoders,
                self._blank.arrays,
                batch_size=self._batching.batch_size,
                threads=threads,
                on_batch=self._on_batch,
            )
            writer.write_shard(number, indices, shard)
        self._require_room(writer)
        return True

    def _require_room(self, writer: StoreWriter) -> None:
        """Say now that the disk will fill up, rather than hours later."""
        done = sum(entry.last - entry.first for entry, _ in writer.done.values())
        # Beside what is known here, other workers have finished shards.
        missing = (self.num_shards - writer.num_finished) * self._per_shard
        left = min(missing, len(self._source) - done)
        needed = writer.num_bytes * left // done
        if not writer.is_open:  # published meanwhile, its notes gone
            return
        free = shutil.disk_usage(writer.folder.parent).free
        if needed > free:
            raise DiskFullError(
                f"encoding the other {left} records takes about {needed / 1e9:.2f} GB and "
                f"{writer.folder.parent} has {free / 1e9:.2f} GB left; make room and repeat: what "
                f"was encoded so far waits in {writer.partial}"
            )

    def _indices(self, number: int) -> range:
        first = number * self._per_shard
        return range(first, min(first + self._per_shard, len(self._source)))

    def _on_batch(self, num: int) -> None:
        self._done += num
        self._report(self._done, self._total)


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


def _plain(manifest: Manifest, name: str) -> Any:
    return asdict(manifest)[name]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {num}" for reason, num in counts.items())


def _no_report(done: int, total: int) -> None:
    """No progress wanted."""
