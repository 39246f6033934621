"""A bounded folder of files that lie elsewhere, shared by any number of processes.

CACHE/<sha256>                      a whole file, its checksum verified
CACHE/<sha256>.<bytes>.partial      one on its way; its bytes are counted from the start
CACHE/.locks/                       one lock per file on its way, one for making room

Whatever else lies in the folder is left alone.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from rectiflow.data.manifest import FileEntry
from rectiflow.errors import FULL_DISK, NO_LOCKS, DataError, DiskFullError
from rectiflow.runs import sync
from rectiflow.sealing import sha256

T = TypeVar("T")
Download = Callable[[Path], None]

_NAME = re.compile(r"[0-9a-f]{64}(?:\.(?P<coming>\d+)\.partial)?")
_ROOM = "room"
_WAIT_SECONDS = 0.05


class FileCache:
    """Files by their checksum, as many as fit; those taken longest ago make room for new ones.

    A file that a process has mapped stays readable to it when its name is gone. So the disk may
    hold, beyond the bound, what was removed and is still mapped.

    Args:
        folder: Where they lie; made when the first file comes. On a local disk.
        max_bytes: Of all files together, also those on their way.
    """

    def __init__(self, folder: Path | str, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._thread_locks: dict[str, threading.Lock] = {}

    def __reduce__(self):
        return (FileCache, (self.folder, self.max_bytes))

    def read(self, entry: FileEntry, download: Download, read: Callable[[Path], T]) -> T:
        """What `read` makes of a file, which is fetched first if it is not here.

        Raises:
            ValueError: If the file is larger than the cache.
            DataError: If what was fetched does not fit the entry's checksum.
            DiskFullError: If the disk is full.
        """
        while True:
            path = self._path(entry)
            if not self.keep(entry):
                with self._locked(_lock_name(entry)):
                    if not self.keep(entry):
                        self._fetch(entry, download)
            try:
                return read(path)
            except (DataError, FileNotFoundError):
                if _is_whole(path, entry):
                    raise
                # The disk damaged it meanwhile, or another process needed the room before `read`
                # had opened it: fetch it again.
                path.unlink(missing_ok=True)

    def fetch(self, entry: FileEntry, download: Download) -> None:
        """Fetch a file if it is not here and nobody is at it already; errors as `read`."""
        if self.keep(entry):
            return
        with self._locked(_lock_name(entry), wait=False) as is_mine:
            if is_mine and not self.keep(entry):
                self._fetch(entry, download)

    def keep(self, entry: FileEntry) -> bool:
        """Whether a file is here; it then counts as just used."""
        try:
            _note_use(self._path(entry))
            return self._path(entry).stat().st_size == entry.num_bytes
        except FileNotFoundError:
            return False

    def _path(self, entry: FileEntry) -> Path:
        return self.folder / entry.sha256

    def _fetch(self, entry: FileEntry, download: Download) -> None:
        partial = self.folder / f"{entry.sha256}.{entry.num_bytes}.partial"
        try:
            self._reserve(partial, entry.num_bytes)
            download(partial)
            if not _is_whole(partial, entry):
                raise DataError(f"{entry.path} is damaged: its checksum does not fit the manifest")
            sync(partial)
            _note_use(partial)
            with self._locked(_ROOM):  # counted as the one or as the other
                os.replace(partial, self._path(entry))
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            raise DiskFullError(
                f"the disk of the cache {self.folder} is full; make room, or give "
                "data.cache_bytes less"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, partial: Path, num_bytes: int) -> None:
        """Make room for a file and say that it comes; waits while all room is on its way.

        The caller holds the file's lock: what lies here under that lock was left by a kill.
        """
        for left in self.folder.glob(f"{partial.name[:_LOCK_DIGITS]}*.partial"):
            if _NAME.fullmatch(left.name):
                left.unlink()
        if num_bytes > self.max_bytes:
            raise ValueError(
                f"data.cache_bytes must hold the largest file, {num_bytes} bytes, "
                f"got {self.max_bytes}"
            )
        while True:
            with self._locked(_ROOM):
                if self._make_room(num_bytes):
                    partial.touch()
                    return
            time.sleep(_WAIT_SECONDS)

    def _make_room(self, num_bytes: int) -> bool:
        here: list[tuple[int, int, Path]] = []
        used = num_bytes
        for path in self.folder.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is None:
                continue
            if name["coming"]:
                used += self._coming(path, int(name["coming"]))
            elif stat := _stat(path):
                here.append((stat.st_mtime_ns, stat.st_size, path))
                used += stat.st_size
        for _, size, path in sorted(here):
            if used <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            used -= size
        return used <= self.max_bytes

    def _coming(self, partial: Path, num_bytes: int) -> int:
        """Bytes of a file on its way; one whose process was killed is removed."""
        with self._locked(partial.name[:_LOCK_DIGITS], wait=False) as is_free:
            if is_free:
                partial.unlink(missing_ok=True)
                return 0
        return num_bytes

    @contextmanager
    def _locked(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock against threads and processes; yields whether it is held."""
        mine = self._thread_locks.setdefault(name, threading.Lock())
        if not mine.acquire(blocking=wait):
            yield False
            return
        try:
            folder = self.folder / ".locks"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("ab") as held:
                yield _flock(held, wait)
        finally:
            mine.release()


_LOCK_DIGITS = 3


def _lock_name(entry: FileEntry) -> str:
    return entry.sha256[:_LOCK_DIGITS]


def _is_whole(path: Path, entry: FileEntry) -> bool:
    try:
        return path.stat().st_size == entry.num_bytes and sha256(path) == entry.sha256
    except FileNotFoundError:
        return False


def _note_use(path: Path) -> None:
    now = time.time_ns()  # by itself the system notes the time of its last tick, 4 ms or so
    os.utime(path, ns=(now, now))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # another process made room meanwhile
        return None


def _flock(held: IO[bytes], wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: there, processes that share a cache may fetch a file twice
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ValueError(
            f"the file system of {held.name} must have locks, by which processes share the cache, "
            f"and has none ({error.strerror}); name a folder on a local disk in data.cache_dir"
        ) from error
    return True
