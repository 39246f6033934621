"""Folders sealed by checksums: a manifest holds the SHA-256 of every file and of itself."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rectiflow.errors import DataError
from rectiflow.runs import read_json, write_json

MANIFEST = "bundle.json"
FORMAT = "rectiflow-bundle-1"


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `bundle.json`: `facts` and the checksum of every file in the folder."""
    checksums = {name: sha256(folder / name) for name in _file_names(folder)}
    manifest = {"format": FORMAT, **facts, "files": checksums}
    write_json(folder / MANIFEST, {**manifest, "manifest": own_checksum(manifest)})


def verify(folder: Path) -> dict[str, Any]:
    """Read `bundle.json` and compare every file with its checksum.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: If the folder is not a bundle.
        DataError: If a file is missing, or differs by as little as a bit.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"{folder} is not a bundle: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{folder / MANIFEST} must be in format {FORMAT}")
    if manifest.pop("manifest", None) != own_checksum(manifest):
        raise DataError(f"{folder / MANIFEST} is damaged: it differs from its own checksum")
    for name, checksum in manifest["files"].items():
        if not _is_inside(name):
            raise DataError(f"{folder / MANIFEST} names a file outside the bundle: {name!r}")
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing from the bundle; fetch it again")
        if sha256(folder / name) != checksum:
            raise DataError(f"{folder / name} is damaged: its checksum differs from {MANIFEST}")
    return manifest


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def own_checksum(manifest: Mapping[str, Any]) -> str:
    """Checksum of a manifest without the entry that holds it."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _file_names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(folder).as_posix()


def _is_inside(name: str) -> bool:
    parts = Path(name).parts
    return not Path(name).is_absolute() and ".." not in parts
