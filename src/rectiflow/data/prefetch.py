"""Work done ahead in the background, in the order in which its results will be needed."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Threads that call `work` on what is expected; they end when there is nothing left.

    What fails is logged and left: whoever needs the thing does the work again and meets the error.

    Args:
        work: Called with one thing at a time, from several threads.
        num_threads: Things worked on at once.
    """

    def __init__(self, work: Callable[[T], None], num_threads: int = 4) -> None:
        self._work, self._num_threads = work, num_threads
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()
        self._num_running = 0

    def expect(self, things: Iterable[T]) -> None:
        """Replace what is expected, first needed first; what is being worked on goes on."""
        with self._lock:
            self._waiting = deque(things)
            num_new = min(self._num_threads, len(self._waiting)) - self._num_running
            self._num_running += max(0, num_new)
        for _ in range(num_new):
            # Daemons: a process that ends does not wait for files that nobody will read.
            threading.Thread(target=self._run, daemon=True, name="prefetch").start()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            try:
                self._work(taken[0])
            except Exception as error:
                _log.info("prefetching %s failed: %s", taken[0], error)

    def _next(self) -> tuple[T] | None:
        with self._lock:
            if self._waiting:
                return (self._waiting.popleft(),)
            self._num_running -= 1
            return None
