"""Fresh processes of the program itself, and how they ended. Standard library only."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Args:
        seconds: From its start to its end.
        peak_mib: Most memory it held at once; None where the system does not tell.
        output: What it wrote to stdout.
    """

    seconds: float
    peak_mib: float | None
    output: str


class Group:
    """Processes run from several threads, which one of these can end all at once.

    Attributes:
        is_ending: Whether `end` was called; what is run from then on gets its SIGTERM at once.
    """

    def __init__(self) -> None:
        self.is_ending = False
        self._pids: set[int] = set()
        self._lock = threading.Lock()

    def end(self) -> None:
        """Send SIGTERM to every process, once; who runs them is told as by `run`."""
        with self._lock:
            self.is_ending = True
            for pid in self._pids:
                with suppress(ProcessLookupError):  # it has just ended, the others have not
                    os.kill(pid, signal.SIGTERM)

    @contextmanager
    def holding(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Count a process in as long as the context lasts."""
        with self._lock:
            self._pids.add(process.pid)
            if self.is_ending:
                process.terminate()
        try:
            yield
        finally:
            with self._lock:
                self._pids.discard(process.pid)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    group: Group | None = None,
    keep_open: Sequence[int] = (),
) -> Finished:
    """Run a command to its end.

    If we are interrupted it gets SIGTERM, once: a training then stops with a checkpoint. A session
    of its own keeps the terminal's Ctrl-C, which would be a second signal, from it.

    Args:
        arguments: Program and arguments.
        environment: Added to ours.
        group: Whose end is this process's too.
        keep_open: Descriptors of files that stay open in it as long as it lives.

    Raises:
        ValueError: If it ends with 2, a mistake of the caller; the message is its last line.
        RuntimeError: If it ends with anything else but 0.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            pass_fds=keep_open,
            text=True,
        )
        try:
            with (group or Group()).holding(process):
                peak_mib = _wait(process)
        finally:
            if process.returncode is None:  # we were interrupted, and it shall not go on alone
                process.terminate()
                process.wait()
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            raise _failure(arguments, process.returncode, errors.read())
        output.seek(0)
        return Finished(seconds, peak_mib, output.read())


def rectiflow_command(*arguments: str) -> list[str]:
    """The command that runs the program itself."""
    return [sys.executable, "-m", "rectiflow", *arguments]


def run_rectiflow(*arguments: str) -> Finished:
    """Run the program in a fresh process."""
    return run(rectiflow_command(*arguments))


def _wait(process: subprocess.Popen[str]) -> float | None:
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # KiB on Linux, bytes on macOS.
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _failure(arguments: Sequence[str], code: int, errors: str) -> Exception:
    lines = errors.strip().splitlines() or ["it said nothing"]
    if code == 2:
        return ValueError(lines[-1].removeprefix("rectiflow: "))
    command = " ".join(arguments)
    return RuntimeError(f"`{command}` ended with {code}:\n" + "\n".join(lines[-20:]))
