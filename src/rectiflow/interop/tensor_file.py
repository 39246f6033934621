"""Safetensors files: the header first, tensors on demand; those we write carry a checksum.

The checksum is SHA-256 over the whole file with the checksum's own digits as zeros. It lies in the
file's metadata, so that a file can be renamed, moved into a folder of another program and still be
verified. Files of others have none: a flipped bit of a weight cannot be seen in them.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rectiflow.errors import DataError
from rectiflow.runs import replacing

FACTS, CHECKSUM = "rectiflow", "rectiflow_sha256"
"""Entries of the metadata of a file of ours: a JSON object, and the checksum of the file."""

_DIGITS = re.compile(rb'"rectiflow_sha256"\s*:\s*"([0-9a-f]{64})"')
_PIECE_BYTES = 1 << 22


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header.

    Args:
        shape: As stored.
        dtype: In the notation of safetensors: "F32", "BF16", "F8_E4M3".
    """

    shape: tuple[int, ...]
    dtype: str


class TensorFile:
    """A safetensors file, of which only the header is read until a tensor is asked for.

    The size of the header, every offset, and that they cover the file exactly are checked by the
    safetensors library when the file is opened.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is no safetensors file, or one that was cut or damaged.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        self.path = path
        self._is_verified = False
        try:
            self._file: Any = safe_open(str(path), framework="pt")
            self.metadata: dict[str, str] = dict(self._file.metadata() or {})
            self.tensors = {name: self._entry(name) for name in self._file.keys()}  # noqa: SIM118
        except PermissionError:
            raise
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{path} cannot be read as safetensors: {error}") from error

    def _entry(self, name: str) -> StoredTensor:
        part = self._file.get_slice(name)
        return StoredTensor(tuple(part.get_shape()), part.get_dtype())

    @property
    def is_ours(self) -> bool:
        """Whether this package wrote the file; either mark tells, so that losing one is noticed."""
        return FACTS in self.metadata or CHECKSUM in self.metadata

    def facts(self) -> dict[str, Any]:
        """What we noted when we wrote the file; empty for a file of others.

        Raises:
            DataError: If that is damaged.
        """
        try:
            facts = json.loads(self.metadata.get(FACTS, "{}"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.path} is damaged: {FACTS} in its metadata is no JSON"
            ) from error
        if not isinstance(facts, dict):
            raise DataError(f"{self.path} is damaged: {FACTS} in its metadata is no object")
        return facts

    def read(self, name: str) -> Tensor:
        """One tensor, memory-mapped where possible.

        Raises:
            DataError: If the checksum of a file of ours fails, or torch has no such type.
        """
        self.verify()
        try:
            return self._file.get_tensor(name)
        except (SafetensorError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: {name} cannot be read: {error}") from error

    def verify(self) -> None:
        """Compare a file of ours with its checksum, once; a file of others passes.

        Raises:
            DataError: If it differs by as little as a bit.
        """
        if self._is_verified or not self.is_ours:
            return
        expected = self.metadata.get(CHECKSUM)
        found = _DIGITS.search(_header(self.path))
        if not found or expected is None or _checksum(self.path, *found.span(1)) != expected:
            raise DataError(f"{self.path} is damaged: it differs from the checksum it carries")
        self._is_verified = True


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], metadata: Mapping[str, str]
) -> None:
    """Write a file with its checksum, atomically.

    Args:
        path: The file.
        tensors: Its tensors; on any device, of any strides.
        facts: What `TensorFile.facts` shall give back.
        metadata: Further entries of the metadata, such as a licence.
    """
    entries = {
        **metadata,
        "format": "pt",  # transformers looks for this entry
        FACTS: json.dumps(facts, sort_keys=True, allow_nan=False),
        CHECKSUM: "0" * 64,
    }
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # the library leaves a file that nobody else may read
        save_file({name: x.cpu().contiguous() for name, x in tensors.items()}, temporary, entries)
        temporary.chmod(mode)
        found = _DIGITS.search(_header(temporary))
        assert found is not None  # written a line above
        digits = _checksum(temporary, *found.span(1)).encode()
        with temporary.open("r+b") as file:
            file.seek(found.start(1))
            file.write(digits)


def _header(path: Path) -> bytes:
    """Length and header of a file that safetensors has accepted, which bounds the length."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def _checksum(path: Path, start: int, end: int) -> str:
    """SHA-256 of a file with the bytes from `start` to `end` as the digit zero."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(start))
        digest.update(b"0" * len(file.read(end - start)))
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
