"""Independent pieces of work side by side over the devices at hand, each by fresh processes."""

import logging
import os
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rectiflow.machine import num_cores
from rectiflow.processes import Finished, Group, rectiflow_command, run

_log = logging.getLogger(__name__)
Task = TypeVar("Task")
Program = Callable[..., Finished]
"""Runs one command line of the program, given word by word, as `rectiflow.processes.run` does."""

_POLL_SECONDS = 0.5


class Interrupted(RuntimeError):
    """The others were told to end before this piece of work could begin."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one process.

    Args:
        environment: What tells a process its share: of threads, of GPUs.
    """

    environment: Mapping[str, str]


def slots_of(num_gpus: int | None = None, num_jobs: int | None = None) -> list[Slot]:
    """Room for processes on this machine.

    Small networks do not fill a device, so cores are shared out one to a process: two processes of
    one thread are faster than one of two threads.

    Args:
        num_gpus: GPUs to use, 0 for none; all by default.
        num_jobs: Processes at a time; by default one to a GPU, without GPUs one to a core. With
            more of them than GPUs, several share one.

    Raises:
        ValueError: If there are not so many GPUs, or `num_jobs` < 1.
    """
    present = _num_gpus()
    num_gpus = present if num_gpus is None else num_gpus
    if not 0 <= num_gpus <= present:
        raise ValueError(f"gpus must be 0 to {present}, the GPUs that are there, got {num_gpus}")
    if num_jobs is not None and num_jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {num_jobs}")
    num_jobs = num_jobs or num_gpus or num_cores()
    threads = {"OMP_NUM_THREADS": str(max(1, num_cores() // num_jobs))}
    names = _visible_gpus(present)
    gpus = [names[i % num_gpus] if num_gpus else "" for i in range(num_jobs)]
    hidden = [{"CUDA_VISIBLE_DEVICES": gpu} if present else {} for gpu in gpus]
    return [Slot({**threads, **each}) for each in hidden]


class Crew:
    """Runs pieces of work side by side.

    Args:
        slots: Room for processes; as many pieces are in work at a time.
        run: Runs one process; as `rectiflow.processes.run`.
    """

    def __init__(self, slots: Sequence[Slot], run: Callable[..., Finished] = run) -> None:
        self.slots, self._run = list(slots), run

    def work_off(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task, Program], object],
        locks: Callable[[Task], Path],
        on_done: Callable[[Task], object],
    ) -> None:
        """Work on the tasks in their order, as many at a time as there are slots.

        One that fails is told of at once and does not stop the others. An interruption of this
        thread ends all processes with SIGTERM, waits for them, and goes on.

        Args:
            tasks: What to do.
            work: Does one, by command lines of the program, in a thread of its own.
            locks: A file for each task; held by its processes, so that what a killed study left
                running is waited for and not done twice.
            on_done: Called in this thread after each one that did not fail; if this fails, the
                task has.

        Raises:
            ValueError: If tasks failed, the first of them by a mistake of the caller.
            RuntimeError: If tasks failed.
        """
        group, free = Group(), queue.SimpleQueue[Slot]()
        for slot in self.slots:
            free.put(slot)

        def one(task: Task) -> None:
            slot = free.get()
            try:
                with _sole_user(locks(task), group) as keep_open:
                    work(task, self._program(slot, group, keep_open))
            finally:
                free.put(slot)

        with ThreadPoolExecutor(len(self.slots)) as pool:
            futures = {pool.submit(one, task): task for task in tasks}
            try:
                self._collect(futures, on_done)
            except BaseException:
                for future in futures:
                    future.cancel()
                group.end()
                raise

    def _collect(
        self, futures: Mapping[Future[None], Task], on_done: Callable[[Task], object]
    ) -> None:
        failures = []
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                try:
                    on_done(futures[future])
                except (OSError, RuntimeError, ValueError) as failure:
                    error = failure
            if error is not None:
                _log.warning("failed, the others go on: %s", error)
                failures.append(error)
        if failures:
            first, others = failures[0], len(failures) - 1
            more = f"\n({others} more failed)" if others else ""
            kind = ValueError if isinstance(first, ValueError) else RuntimeError
            raise kind(f"{first}{more}") from first

    def _program(self, slot: Slot, group: Group, keep_open: Sequence[int]) -> Program:
        def program(*words: str) -> Finished:
            if group.is_ending:
                raise Interrupted("ended before " + " ".join(words))
            command = rectiflow_command(*words)
            return self._run(command, slot.environment, group=group, keep_open=keep_open)

        return program


@contextmanager
def _sole_user(path: Path, group: Group) -> Iterator[list[int]]:
    """Hold a lock that lives as long as any process that inherits its descriptor."""
    try:
        import fcntl
    except ImportError:  # not on Windows; there a killed study must not be started again at once
        yield []
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as held:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if group.is_ending:
                raise Interrupted(f"ended while {path} was held by another process")
            time.sleep(_POLL_SECONDS)
        yield [held.fileno()]


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _visible_gpus(num: int) -> list[str]:
    """What each GPU is called where CUDA_VISIBLE_DEVICES names some of the machine's."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(num)] if given is None else given.split(",")[:num]
