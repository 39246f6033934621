"""Who of a job is still alive: a dead process ends it with its name instead of a hang.

Every process beats in the job's store from a thread of its own. Rank 0 watches all, all watch
rank 0 and what was told of a failure: one writes it, the others read it and end.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

BEATS_PER_TIMEOUT = 10
SILENT_BEATS = 3
"""So many missed beats tell who is gone, once an exchange has failed."""
GRACE_SECONDS = 5.0
"""Left to the main thread to end by itself; it may be stuck in an exchange for good."""

_FAILURE = "failure"


class Heartbeat:
    """The beats of one process, from `start` to `stop`.

    Args:
        store: Of the job; a connection of its own, not shared with other threads.
        rank: Of this process.
        num: Processes of the job.
        timeout_seconds: A process that is silent for so long is dead.
    """

    def __init__(self, store: Store, rank: int, num: int, timeout_seconds: float) -> None:
        self._store, self._rank, self._num = store, rank, num
        self._timeout = timeout_seconds
        self._interval = min(5.0, timeout_seconds / BEATS_PER_TIMEOUT)
        self._count = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat; once all processes have begun, `dist` may be asked to meet."""
        self._store.set(f"who/{self._rank}", _address())
        self._beat()
        self._store.wait([f"beat/{rank}" for rank in range(self._num)])
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; nobody may be watching any longer, or a failure must have been told."""
        self._stopped.set()
        self._thread.join()

    def tell(self, reason: str) -> str:
        """Tell all why the job ends, unless it was told before; gives what stands."""
        try:
            with self._lock:
                told = self._store.compare_set(_FAILURE, "", reason)
            return told.decode()
        except RuntimeError:
            return _STORE_GONE

    @property
    def my_name(self) -> str:
        """This process as a person can find it."""
        return f"rank {self._rank} ({_address()})"

    def _name(self, rank: int) -> str:
        with self._lock:
            return f"rank {rank} ({self._store.get(f'who/{rank}').decode()})"

    def culprit(self) -> str | None:
        """Why an exchange has just failed: what was told, or whose beats stand still now."""
        try:
            before = self._beats(range(self._num))
            for _ in range(SILENT_BEATS + 1):
                if told := self._told():
                    return told
                time.sleep(self._interval)
            after = self._beats(range(self._num))
            silent = [k for k in before if before[k] == after[k] and k != self._rank]
            return self.tell(self._gone(silent[0])) if silent else self._told()
        except RuntimeError:
            return _STORE_GONE

    def _watch(self) -> None:
        watched = [k for k in range(self._num) if k != self._rank] if self._rank == 0 else [0]
        seen: dict[int, tuple[bytes, float]] = {}
        woken = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            if now - woken > 3 * self._interval:
                seen.clear()  # this process slept itself; it cannot tell who else did
            woken = now
            try:
                reason = self._look(watched, seen, now)
            except RuntimeError:
                reason = _STORE_GONE
            if reason:
                self._end(reason)
                return

    def _look(
        self, watched: Iterable[int], seen: dict[int, tuple[bytes, float]], now: float
    ) -> str | None:
        self._beat()
        if told := self._told():
            return told
        for rank, beat in self._beats(watched).items():
            if rank not in seen or seen[rank][0] != beat:
                seen[rank] = beat, now
            elif now - seen[rank][1] > self._timeout:
                return self.tell(self._gone(rank))
        return None

    def _end(self, reason: str) -> None:
        if self._stopped.wait(GRACE_SECONDS):
            return
        sys.stderr.write(f"error: {reason}\n")
        sys.stderr.flush()
        os._exit(1)

    def _beat(self) -> None:
        self._count += 1
        with self._lock:
            self._store.set(f"beat/{self._rank}", str(self._count))

    def _beats(self, ranks: Iterable[int]) -> dict[int, bytes]:
        found = list(ranks)
        with self._lock:
            return dict(
                zip(found, self._store.multi_get([f"beat/{k}" for k in found]), strict=True)
            )

    def _told(self) -> str | None:
        with self._lock:
            return self._store.get(_FAILURE).decode() if self._store.check([_FAILURE]) else None

    def _gone(self, rank: int) -> str:
        return (
            f"{self._name(rank)} is not heard of any more; the job ends, the same command resumes "
            "from the newest checkpoint"
        )


def _address() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}"


_STORE_GONE = (
    "rank 0, which keeps the job's store, does not answer any more; the job ends, the same command "
    "resumes from the newest checkpoint"
)
