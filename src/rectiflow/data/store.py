"""The encoded store: latents and text states on disk, read by row through memory maps.

STORE/manifest.json           what it is, of what, by which encoders; counts, sizes, checksums
STORE/samples/00000.arrow     id, per caption name its text and its row in texts/00000, latent,
                              log_variance
STORE/texts/00000.arrow       caption, and its states: clip_l, clip_g, t5, pooled_l, pooled_g
STORE/quarantine.jsonl        records left out: id, reason, detail

A caption that records of a shard share is stored once. Each shard stands on its own, so shards
can be made apart, resumed and read in any order.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rectiflow.data.file_cache import FileCache
from rectiflow.data.manifest import SAMPLE_ARRAYS, EncoderStamp, FileEntry, Manifest, ShardEntry
from rectiflow.data.shards import map_columns
from rectiflow.data.store_files import LocalFiles, RemoteFiles, StoreFiles, store_files
from rectiflow.errors import DataError
from rectiflow.sealing import sha256

QUARANTINE = "quarantine.jsonl"


def caption_column(name: str) -> str:
    """Column of `samples` with the text of caption `name`."""
    return f"caption_{name}"


def text_column(name: str) -> str:
    """Column of `samples` with the row in `texts` of caption `name`."""
    return f"text_{name}"


class Store:
    """A finished encoded store, opened for reading. Pickles as its path or URL.

    Threads may read from it at once.

    Attributes:
        files: Where it lies.
        manifest: What it says about itself.
    """

    def __init__(self, files: StoreFiles, manifest: Manifest) -> None:
        self.files = files
        self.manifest = manifest
        counts = [shard.num_records for shard in manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, location: Path | str, cache: FileCache | None = None) -> "Store":
        """Open a store; checks the manifest, and of a folder that every file is there, in its size.

        Args:
            location: A folder, or an fsspec URL such as `s3://bucket/store`, whose files are
                fetched whole, and verified, when they are read.
            cache: Where fetched files lie; None for that of the user.

        Raises:
            FileNotFoundError: If it is no encoded store.
            ValueError: If the URL cannot be opened.
            DataError: If the manifest or a file is damaged.
        """
        files = store_files(location, cache)
        store = cls(files, files.manifest())
        files.check(store.manifest.files)
        return store

    @property
    def folder(self) -> Path:
        """Where it lies.

        Raises:
            ValueError: If that is behind a URL.
        """
        if not isinstance(self.files, LocalFiles):
            raise ValueError(f"the store must be in a folder here, got {self.files.name}")
        return self.files.folder

    def verify(self) -> None:
        """Compare every file with its checksum; reads the whole store.

        Raises:
            DataError: Naming the first damaged file.
        """
        for file in self.manifest.files:
            if problem := damage_of(self.files, file):
                raise DataError(f"{self.files.name}/{file.path} {problem}")

    def require_encoders(self, stamp: EncoderStamp) -> None:
        """Refuse encoders other than those that made the store.

        Raises:
            ValueError: Naming what differs.
        """
        mine = self.manifest.encoders
        names = [name for name in vars(mine) if getattr(mine, name) != getattr(stamp, name)]
        if names:
            made = {name: _short(getattr(mine, name)) for name in names}
            given = {name: _short(getattr(stamp, name)) for name in names}
            raise ValueError(
                f"{self.files.name} was encoded with other encoders: it has {made}, the recipe's "
                f"are {given}; encode again into another folder, or use the encoders it was made "
                "with"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self):
        if isinstance(self.files, RemoteFiles):
            return (Store.open, (self.files.name, self.files.cache))
        return (Store.open, (self.folder,))

    def shard_sizes(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How many rows of each shard there are among `rows`, ascending; None for all.

        Raises:
            ValueError: If `rows` do not ascend within the store.
        """
        if rows is None:
            return np.diff(self._starts)
        if len(rows) and not (0 <= rows[0] <= rows[-1] < len(self) and (np.diff(rows) > 0).all()):
            raise ValueError(f"rows must ascend from 0 to at most {len(self) - 1}, got {rows}")
        return np.diff(np.searchsorted(rows, self._starts))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the text states."""
        return tuple(name for name in self.manifest.arrays if name not in SAMPLE_ARRAYS)

    def ids(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """Ids of the records at `indices`."""
        return self._strings(np.asarray(indices, dtype=np.int64), "id")

    def captions(self, indices: Sequence[int] | np.ndarray, name: str) -> list[str]:
        """Caption `name` of the records at `indices`."""
        self._caption_index(name)
        return self._strings(np.asarray(indices, dtype=np.int64), caption_column(name))

    def rows(
        self,
        indices: Sequence[int] | np.ndarray,
        caption: str | np.ndarray | None = None,
        *,
        with_log_variance: bool = False,
    ) -> dict[str, Any]:
        """The records at `indices`, in that order.

        Args:
            indices: Rows, 0 <= index < len, repeats allowed, shape (batch,).
            caption: Which caption's states: a name, or one number per row into
                `manifest.captions`; None takes the first.
            with_log_variance: Whether to read that of the latents too.

        Returns:
            `latent` (batch, channels, height, width), `log_variance` of the same shape where asked
            for, `states`: name -> (batch, ...) with batch first, all in the stored types, `ids`.

        Raises:
            IndexError: If an index lies outside the store.
            DataError: If a shard that is read is damaged.
        """
        indices = np.asarray(indices, dtype=np.int64)
        names = self.manifest.captions
        if caption is None or isinstance(caption, str):
            number = 0 if caption is None else self._caption_index(caption)
            caption = np.full(len(indices), number)
        of_sample = SAMPLE_ARRAYS if with_log_variance else SAMPLE_ARRAYS[:1]
        out = {
            name: np.empty((len(indices), *spec.shape), dtype=spec.dtype)
            for name, spec in self.manifest.arrays.items()
            if name in (*of_sample, *self.states)
        }
        for shard, where, local in self._groups(indices):
            for name in of_sample:
                _copy_rows(shard.samples[name], local, out[name], where)
            texts = np.stack([shard.samples[text_column(name)][local] for name in names])
            text = texts[caption[where], np.arange(len(local))]
            for name in self.states:
                _copy_rows(shard.texts[name], text, out[name], where)
        tensors = {name: torch.from_numpy(array) for name, array in out.items()}
        samples = {name: tensors.pop(name) for name in of_sample}
        return {**samples, "states": tensors, "ids": self.ids(indices)}

    def _strings(self, indices: np.ndarray, column: str) -> list[str]:
        out = [""] * len(indices)
        for shard, where, local in self._groups(indices):
            values = shard.samples[column]
            for target, row in zip(where.tolist(), local.tolist(), strict=True):
                out[target] = values[row].as_py()
        return out

    def expect(self, windows: Iterator[np.ndarray]) -> None:
        """Have the files of these windows of shards fetched, as far ahead as there is room.

        Args:
            windows: Numbers of the shards that are read together, window by window, without end;
                the first is being read.
        """
        room = self.files.room()
        if room is None:
            return
        ahead: dict[str, FileEntry] = {}  # each file once: a small store comes round again
        rounds = 2 * len(self.manifest.shards)
        for number in itertools.islice(itertools.chain.from_iterable(windows), rounds):
            shard = self.manifest.shards[number]
            new = [file for file in (shard.samples, shard.texts) if file.sha256 not in ahead]
            room -= sum(file.num_bytes for file in new)
            if room < 0:
                break
            ahead |= {file.sha256: file for file in new}
        self.files.expect(ahead.values())

    def require_room(self, num_shards: int) -> None:
        """Refuse a cache that does not hold so many shards, which would be fetched again and again.

        Raises:
            ValueError: If it is too small.
        """
        room = self.files.room()
        sizes = sorted(s.samples.num_bytes + s.texts.num_bytes for s in self.manifest.shards)
        needed = sum(sizes[-num_shards:])
        if room is not None and room < needed:
            raise ValueError(
                f"data.cache_bytes must be >= {needed} for {self.files.name}, the bytes of the "
                f"{num_shards} shards whose samples are mixed, got {room}"
            )

    def _groups(self, indices: np.ndarray):
        """(shard, places in the batch, rows in the shard) for every shard that is touched."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"rows are 0..{len(self) - 1}, got {indices.min()}..{indices.max()}")
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(numbers):
            where = np.flatnonzero(numbers == number)
            yield self._shard(int(number)), where, indices[where] - self._starts[number]

    def _shard(self, number: int) -> "_Shard":
        with self._lock:
            if shard := self._open.get(number):
                self._open.move_to_end(number)
                return shard
        shard = _Shard.map(self.files, self.manifest.shards[number], self.manifest)
        with self._lock:
            self._open[number] = shard
            if len(self._open) > self.files.max_open:
                self._open.popitem(last=False)
        return shard

    def _caption_index(self, name: str) -> int:
        if name not in self.manifest.captions:
            raise ValueError(f"caption must be one of {self.manifest.captions}, got {name!r}")
        return self.manifest.captions.index(name)


@dataclass(frozen=True)
class _Shard:
    samples: Mapping[str, Any]
    texts: Mapping[str, Any]

    @classmethod
    def map(cls, files: StoreFiles, entry: ShardEntry, manifest: Manifest) -> "_Shard":
        samples = files.read(entry.samples, partial(map_columns, num_rows=entry.num_records))
        texts = files.read(entry.texts, partial(map_columns, num_rows=entry.num_texts))
        for name, spec in manifest.arrays.items():
            of_sample = name in SAMPLE_ARRAYS
            file = entry.samples if of_sample else entry.texts
            array = (samples if of_sample else texts).get(name)
            if array is None or array.shape[1:] != spec.shape or array.dtype != spec.dtype:
                path = f"{files.name}/{file.path}"
                raise DataError(f"{path}: column {name} does not fit the manifest")
        for name in manifest.captions:
            rows = samples.get(text_column(name))
            if rows is None or (len(rows) and not 0 <= rows.min() <= rows.max() < entry.num_texts):
                path = f"{files.name}/{entry.samples.path}"
                raise DataError(f"{path}: column {text_column(name)} points outside the texts")
        return cls(samples, texts)


def damage_of(files: StoreFiles, entry: FileEntry) -> str:
    """What is wrong with a file of a store, read to its last byte; empty if nothing is."""
    try:
        files.read(entry, partial(_require_whole, checksum=entry.sha256))
    except FileNotFoundError:
        return "is missing from the store"
    except DataError as error:  # that of a file that was fetched names it already
        return f"is damaged: {error}"
    return ""


def _require_whole(file: Path, checksum: str) -> None:
    if sha256(file) != checksum:
        raise DataError("its checksum does not fit the manifest")


def _copy_rows(
    source: np.ndarray, rows: np.ndarray, target: np.ndarray, places: np.ndarray
) -> None:
    """target[places] = source[rows] with one copy of each row, where NumPy makes two."""
    for place, row in zip(places.tolist(), rows.tolist(), strict=True):
        target[place] = source[row]


def _short(value: object) -> object:
    return value[:12] if isinstance(value, str) else value
