"""Who encodes which shard: advisory locks that die with their process, however it dies.

STORE.partial.lock is one file whose bytes are locked (POSIX record locks, which network file
systems pass on between machines; nothing is written to it):

byte 0      setting up, and giving the finished store its name: one worker at a time
byte 1      being at work, shared by all workers
byte 2 + n  encoding shard n

Such locks belong to a process, not to a thread, so a process encodes a folder once at a time.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rectiflow.errors import NO_LOCKS

try:
    import fcntl
except ImportError:  # not on Windows; there a folder must be encoded by one process at a time
    fcntl = None

_SETTING_UP, _AT_WORK, _FIRST_SHARD = range(3)

_in_work: set[Path] = set()
_guard = threading.Lock()


class Claims:
    """What this worker may do; made by `working_on`."""

    def __init__(self, held: IO[bytes]) -> None:
        self._held = held
        self._is_present = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other worker sets up or publishes, and keep them from it."""
        _lock(self._held, _SETTING_UP, waits=True)
        try:
            yield
        finally:
            _unlock(self._held, _SETTING_UP)

    def are_others_here(self) -> bool:
        """Whether other workers are at work; to be asked alone."""
        is_free = _lock(self._held, _AT_WORK)
        if self._is_present:
            _lock(self._held, _AT_WORK, is_shared=True)
        elif is_free:
            _unlock(self._held, _AT_WORK)
        return not is_free

    def join(self) -> None:
        """Be at work from now on, and no longer alone."""
        _lock(self._held, _AT_WORK, waits=True, is_shared=True)
        self._is_present = True
        _unlock(self._held, _SETTING_UP)

    @contextmanager
    def shard(self, number: int) -> Iterator[bool]:
        """Try to claim a shard: True until the context ends, or False if another worker has it."""
        is_mine = _lock(self._held, _FIRST_SHARD + number)
        try:
            yield is_mine
        finally:
            if is_mine:
                _unlock(self._held, _FIRST_SHARD + number)


@contextmanager
def working_on(folder: Path, partial: Path) -> Iterator[Claims]:
    """Come to the store `folder`, which is in `partial` until it is whole.

    One is alone at first, to set up; `join` lets the others in.

    Raises:
        ValueError: If another thread of this process has come, or the file system has no locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = _lock_path(partial)
    with _only_thread(folder), _locked_file(path) as held:
        claims = Claims(held)
        try:
            yield claims
        finally:
            with claims.alone(), suppress(OSError):
                if not partial.exists() and not claims.are_others_here():
                    path.unlink()


def clear_locks(folder: Path, partial: Path) -> None:
    """Remove what a worker that was killed just after it had published left beside the store."""
    if _lock_path(partial).exists():
        with suppress(OSError, ValueError), working_on(folder, partial):
            """Coming and going does it, unless somebody is here."""


def _lock_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.lock")


@contextmanager
def _only_thread(folder: Path) -> Iterator[None]:
    key = folder.resolve()
    with _guard:
        if key in _in_work:
            raise ValueError(f"this process is encoding {folder} already, in another thread")
        _in_work.add(key)
    try:
        yield
    finally:
        with _guard:
            _in_work.discard(key)


@contextmanager
def _locked_file(path: Path) -> Iterator[IO[bytes]]:
    """The file of locks, that for setting up held."""
    while True:
        with path.open("a+b") as held:
            _lock(held, _SETTING_UP, waits=True)
            if _is_at(held, path):  # else its last worker removed it while we waited
                yield held
                return


def _is_at(held: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(held: IO[bytes], byte: int, *, waits: bool = False, is_shared: bool = False) -> bool:
    """Lock one byte; False if another process has it and we do not wait."""
    if fcntl is None:
        return True
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        fcntl.lockf(held, kind if waits else kind | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the system likes
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ValueError(
            f"the file system of {held.name} must have locks, by which workers agree, and has none "
            f"({error.strerror}); encode on another disk and copy the store"
        ) from error
    return True


def _unlock(held: IO[bytes], byte: int) -> None:
    if fcntl is not None:
        fcntl.lockf(held, fcntl.LOCK_UN, 1, byte)
