"""What an encoded store says about itself: `manifest.json`."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectiflow.errors import DataError
from rectiflow.runs import write_bytes

MANIFEST = "manifest.json"
FORMAT = "rectiflow encoded store"
VERSION = 2
LATENT_DTYPES = {"latent": "float32", "log_variance": "float16"}
SAMPLE_ARRAYS = tuple(LATENT_DTYPES)
"""Arrays of a record; the others are text states, of a caption."""

_PATH = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class EncoderStamp:
    """Which encoders made a store.

    Args:
        autoencoder: Hash of the autoencoder's settings and weights.
        text: Hash of the text encoders' settings, weights and tokenizers.
        shift_factor: Subtracted from a raw latent before storing.
        scaling_factor: Multiplies it after that.
        factor: Pixels per latent position along a side.
    """

    autoencoder: str
    text: str
    shift_factor: float
    scaling_factor: float
    factor: int

    def __post_init__(self) -> None:
        for name in ("shift_factor", "scaling_factor", "factor"):
            value = getattr(self, name)
            is_number = type(value) in (int, float) and math.isfinite(value)
            _require(is_number, f"{name} must be a finite number", value)


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Shape of one record's (or text's) array, and its NumPy type."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        is_shape = self.shape and all(_is_count(side) and side for side in self.shape)
        _require(is_shape, "the shape of an array must be of whole numbers >= 1", self.shape)
        _require(self.dtype in ("float16", "float32"), "an array is float16 or 32", self.dtype)


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the store: path relative to it with forward slashes, size, SHA-256.

    A manifest may be a stranger's, so neither path nor checksum, which names a file of the cache,
    can lead out of a folder.
    """

    path: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _require(_fits(_PATH, self.path), "a path must stay inside the store", self.path)
        _require(_is_count(self.num_bytes), "a size must be a whole number >= 0", self.num_bytes)
        _require(_fits(_SHA256, self.sha256), "a SHA-256 has 64 digits 0-9a-f", self.sha256)


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """Two files: the records, and the distinct captions these records have.

    Args:
        first: First record of the source that was tried for this shard.
        last: One past the last.
        num_records: Rows of `samples`; fewer than last - first where some were quarantined.
        num_texts: Rows of `texts`.
        num_enlarged: Pictures that were smaller than the stored size.
        num_cut: Texts that were longer than a text encoder holds.
    """

    first: int
    last: int
    num_records: int
    num_texts: int
    num_enlarged: int
    num_cut: int
    samples: FileEntry
    texts: FileEntry

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_right = isinstance(value, FileEntry) or _is_count(value)
            _require(is_right, f"{name} of a shard must be a whole number >= 0", value)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a store but its rows.

    Args:
        parent: What was encoded: the source's own description.
        parent_hash: SHA-256 of that description.
        encoders: What it was encoded with.
        size_px: Side of the pictures.
        captions: Names of every record's captions.
        arrays: `latent`, `log_variance` and the text states, by name.
        shards: The files, in the order of the rows.
        quarantine: Number of records left out, by reason.
        left_out: The file that lists them; None before the store is whole.
    """

    parent: Mapping[str, Any]
    parent_hash: str
    encoders: EncoderStamp
    size_px: int
    captions: tuple[str, ...]
    arrays: Mapping[str, ArraySpec]
    shards: tuple[ShardEntry, ...]
    quarantine: Mapping[str, int]
    left_out: FileEntry | None = None

    def __post_init__(self) -> None:
        _require(_is_count(self.size_px), "size_px must be a whole number", self.size_px)
        names = [*self.captions, *self.arrays, *self.parent, *self.quarantine]
        _require(all(isinstance(name, str) for name in names), "names must be strings", names)
        has_counts = all(map(_is_count, self.quarantine.values()))
        _require(has_counts, "quarantine must hold whole numbers", self.quarantine)
        has_arrays = set(SAMPLE_ARRAYS) <= set(self.arrays) and self.captions
        _require(has_arrays, f"there must be captions and {SAMPLE_ARRAYS}", list(self.arrays))

    @property
    def num_records(self) -> int:
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of the shards."""
        return sum(s.samples.num_bytes + s.texts.num_bytes for s in self.shards)

    @property
    def num_enlarged(self) -> int:
        return sum(shard.num_enlarged for shard in self.shards)

    @property
    def num_cut(self) -> int:
        return sum(shard.num_cut for shard in self.shards)

    @property
    def num_quarantined(self) -> int:
        return sum(self.quarantine.values())

    @property
    def context_tokens(self) -> dict[str, int]:
        """Tokens of each sequence of text states."""
        return {n: spec.shape[0] for n, spec in self.arrays.items() if len(spec.shape) == 2}

    @property
    def content_hash(self) -> str:
        """Identity of the rows: SHA-256 over the checksums of all files."""
        files = [file.sha256 for shard in self.shards for file in (shard.samples, shard.texts)]
        return json_hash(files)

    @property
    def files(self) -> list[FileEntry]:
        """Every file of the store but the manifest."""
        shards = [file for shard in self.shards for file in (shard.samples, shard.texts)]
        return shards if self.left_out is None else [*shards, self.left_out]

    def write(self, folder: Path) -> None:
        """Write `manifest.json`, atomically."""
        write_bytes(folder / MANIFEST, self.content())

    def content(self) -> bytes:
        """The bytes of `manifest.json`, which are a function of what it says."""
        values = dataclasses.asdict(self)
        summary = {
            "format": FORMAT,
            "version": VERSION,
            "num_records": self.num_records,
            "num_quarantined": self.num_quarantined,
            "context_tokens": self.context_tokens,
            "content_hash": self.content_hash,
        }
        facts = {**summary, **values, "checksum": json_hash(values)}
        return (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read and check `manifest.json`.

        Raises:
            FileNotFoundError: If the folder is no encoded store.
            DataError: If the manifest is damaged or of another version.
        """
        file = folder / MANIFEST
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is not an encoded store: it has no {MANIFEST}")
        return cls.parse(file.read_bytes(), str(file))

    @classmethod
    def parse(cls, content: bytes, file: str) -> "Manifest":
        """Check what was read from `file`, to the last byte; DataError as `read`."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is damaged: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{file} is damaged: expected an object, found {values!r:.80}")
        if values.get("format") != FORMAT or values.get("version") != VERSION:
            found = f"{values.get('format')!r} version {values.get('version')!r}"
            raise DataError(f"{file}: expected {FORMAT!r} version {VERSION}, found {found}")
        try:
            own = {field.name: values[field.name] for field in dataclasses.fields(cls)}
            if json_hash(own) != values["checksum"]:
                raise DataError(f"{file} is damaged: its checksum does not fit its content")
            manifest = cls(**(own | _typed(own)))
            expected = manifest.content()
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{file} is damaged: {error!r}") from error
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{file} is damaged: {error}") from error
        if expected != content:
            raise DataError(f"{file} is damaged: it is not as it was written")
        return manifest


def json_hash(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def shard_from_json(values: Mapping[str, Any]) -> ShardEntry:
    """Read back `dataclasses.asdict` of a shard's entry."""
    files = {name: FileEntry(**values[name]) for name in ("samples", "texts")}
    return ShardEntry(**{**values, **files})


def _require(holds: object, what: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{what}, found {found!r:.80}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    arrays = {
        name: ArraySpec(shape=tuple(spec["shape"]), dtype=spec["dtype"])
        for name, spec in values["arrays"].items()
    }
    return {
        "encoders": EncoderStamp(**values["encoders"]),
        "captions": tuple(values["captions"]),
        "arrays": arrays,
        "shards": tuple(shard_from_json(entry) for entry in values["shards"]),
        "left_out": None if values["left_out"] is None else FileEntry(**values["left_out"]),
    }
