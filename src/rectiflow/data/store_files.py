"""The files of an encoded store, in a folder or behind a URL."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import fsspec.core
from fsspec.callbacks import Callback

from rectiflow.data.file_cache import FileCache
from rectiflow.data.manifest import MANIFEST, FileEntry, Manifest
from rectiflow.data.prefetch import Prefetch
from rectiflow.errors import FULL_DISK, DataError

T = TypeVar("T")

_log = logging.getLogger(__name__)

CACHE_BYTES = 64_000_000_000
WAIT_SECONDS = (1.0, 5.0, 25.0)
"""Pauses before a file that could not be fetched is asked for again."""

NOT_AGAIN = FULL_DISK | {errno.EACCES, errno.EPERM}
"""Errors that waiting does not mend."""


@runtime_checkable
class StoreFiles(Protocol):
    """How a store reaches its files.

    Attributes:
        name: Of the store, for a person.
        max_open: Shards that are to stay mapped.
    """

    name: str
    max_open: int

    def manifest(self) -> Manifest:
        """What the store says about itself; FileNotFoundError and DataError as `Manifest.read`."""
        ...

    def check(self, entries: Iterable[FileEntry]) -> None:
        """DataError if a file is missing or has another size, as far as that is known cheaply."""
        ...

    def read(self, entry: FileEntry, read: Callable[[Path], T]) -> T:
        """What `read` makes of a file."""
        ...

    def room(self) -> int | None:
        """Bytes of files that can be at hand at once; None for all."""
        ...

    def expect(self, entries: Iterable[FileEntry]) -> None:
        """These files will be read, in this order."""
        ...


class LocalFiles(StoreFiles):
    """Files in a folder."""

    max_open = 1024

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def manifest(self) -> Manifest:
        return Manifest.read(self.folder)

    def check(self, entries: Iterable[FileEntry]) -> None:
        for entry in entries:
            path = self.folder / entry.path
            if not path.is_file():
                raise DataError(f"{path} is missing from the store")
            if path.stat().st_size != entry.num_bytes:
                found = path.stat().st_size
                raise DataError(
                    f"{path} is damaged: {entry.num_bytes} bytes expected, {found} found"
                )

    def read(self, entry: FileEntry, read: Callable[[Path], T]) -> T:
        return read(self.folder / entry.path)

    def room(self) -> int | None:
        return None

    def expect(self, entries: Iterable[FileEntry]) -> None:
        """They are here."""


class RemoteFiles(StoreFiles):
    """Files behind an fsspec URL, fetched whole, verified, into a local cache.

    Args:
        url: Such as `s3://bucket/store`, `hf://datasets/name/store` or `memory://store`;
            credentials are found by fsspec's file system of that protocol, never in a recipe.
        cache: Where fetched files lie.

    Raises:
        ValueError: If the protocol is unknown or its package is not installed, or the URL is a
            chain of several (`a::b`), some of which run what they read.
    """

    # Two windows of the order: the maps of one are kept while workers still read from it.
    max_open = 32

    def __init__(self, url: str, cache: FileCache) -> None:
        if "::" in url:
            raise ValueError(
                f"a store's URL must name one protocol, as s3://bucket/store, got {url}"
            )
        try:
            self._system, root = fsspec.core.url_to_fs(url)
        except (ImportError, TypeError, ValueError) as error:
            raise ValueError(f"cannot open {url}: {error}") from error
        self._root: str = str(root).rstrip("/")
        self.name, self.cache = url, cache
        self._prefetch = Prefetch(self._fetch)

    def manifest(self) -> Manifest:
        name = f"{self.name.rstrip('/')}/{MANIFEST}"
        try:
            content: Any = self._ask(
                MANIFEST, lambda: self._system.cat_file(f"{self._root}/{MANIFEST}")
            )
        except FileNotFoundError as error:
            message = f"{self.name} is not an encoded store: it has no {MANIFEST}"
            raise FileNotFoundError(message) from error
        return Manifest.parse(content, name)

    def check(self, entries: Iterable[FileEntry]) -> None:
        """Each file is verified when it is fetched."""

    def read(self, entry: FileEntry, read: Callable[[Path], T]) -> T:
        return self.cache.read(entry, lambda path: self._download(entry, path), read)

    def room(self) -> int | None:
        return self.cache.max_bytes

    def expect(self, entries: Iterable[FileEntry]) -> None:
        expected = list(entries)
        for entry in reversed(expected):  # where others need room, what is needed last makes it
            self.cache.keep(entry)
        self._prefetch.expect(expected)

    def _fetch(self, entry: FileEntry) -> None:
        self.cache.fetch(entry, lambda path: self._download(entry, path))

    def _download(self, entry: FileEntry, path: Path) -> None:
        """Copy a file here, and no more bytes than it is to have."""
        source = f"{self._root}/{entry.path}"
        try:
            self._ask(
                entry.path,
                lambda: self._system.get_file(source, str(path), callback=_Bound(entry)),
            )
        except FileNotFoundError as error:
            raise DataError(f"{self.name}/{entry.path} is missing from the store") from error

    def _ask(self, path: str, ask: Callable[[], T]) -> T:
        """What the file system answers; a lost connection is tried again.

        Raises:
            ConnectionError: If it cannot be reached, or does not let us in.
        """
        for wait in (*WAIT_SECONDS, None):
            try:
                return ask()
            except (DataError, FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # file systems have errors of their own, as of credentials
                if isinstance(error, OSError) and error.errno in NOT_AGAIN:
                    raise
                if wait is None or not isinstance(error, OSError):
                    message = f"{self.name}/{path} cannot be fetched: {error or repr(error)}"
                    raise ConnectionError(message) from error
                _log.warning("fetching %s/%s failed: %s; again", self.name, path, error)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


class _Bound(Callback):
    """Ends a download that brings more than the manifest announces, before it fills the disk."""

    def __init__(self, entry: FileEntry) -> None:
        super().__init__()
        self._entry = entry

    def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
        if max(self.value, self.size or 0) > self._entry.num_bytes:
            raise DataError(
                f"{self._entry.path} is damaged: it has more than {self._entry.num_bytes} bytes"
            )


def store_files(location: Path | str, cache: FileCache | None = None) -> LocalFiles | RemoteFiles:
    """The files at a path or a URL.

    Args:
        location: A folder, or an fsspec URL.
        cache: For files behind a URL; None for that of the user, of `CACHE_BYTES`.
    """
    if not is_url(location):
        return LocalFiles(Path(location))
    return RemoteFiles(str(location), cache or FileCache(default_cache(), CACHE_BYTES))


def is_url(location: Path | str) -> bool:
    """Whether a location names a protocol, as `s3://bucket/store` does."""
    return isinstance(location, str) and "://" in location


def default_cache() -> Path:
    """`~/.cache/rectiflow/shards`; `XDG_CACHE_HOME` moves it."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "rectiflow" / "shards"
