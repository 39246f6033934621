"""A store compared with its checksums, every damaged file told."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rectiflow.data.file_cache import FileCache
from rectiflow.data.manifest import Manifest
from rectiflow.data.store import damage_of
from rectiflow.data.store_files import store_files


@dataclass(frozen=True)
class Verification:
    """What came of it.

    Attributes:
        manifest: What the store says about itself.
        damaged: Damaged and missing files by path, and what is wrong with each.
    """

    manifest: Manifest
    damaged: dict[str, str]


def verify_store(
    location: Path | str,
    on_progress: Callable[[int, int], None] | None = None,
    cache: FileCache | None = None,
) -> Verification:
    """Read every byte of a store, in a folder or behind a URL.

    Args:
        location: Where it is.
        on_progress: Called with the number of bytes read, and of all.
        cache: Where files behind a URL are fetched to.

    Raises:
        FileNotFoundError: If it is no encoded store.
        DataError: If its manifest is damaged, which holds all checksums and its own.
    """
    files = store_files(location, cache)
    manifest = files.manifest()
    total, done, damaged = sum(entry.num_bytes for entry in manifest.files), 0, {}
    for entry in manifest.files:
        if problem := damage_of(files, entry):
            damaged[entry.path] = problem
        done += entry.num_bytes
        if on_progress is not None:
            on_progress(done, total)
    return Verification(manifest, damaged)
