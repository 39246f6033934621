"""Fresh processes of the program itself, and how they ended. Standard library only."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end.

    If we are interrupted it gets SIGTERM, once: a training then stops with a checkpoint. A session
    of its own keeps the terminal's Ctrl-C, which would be a second signal, from it.

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
        )
        try:
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


def run_rectiflow(*arguments: str) -> Finished:
    """Run the program in a fresh process."""
    return run([sys.executable, "-m", "rectiflow", *arguments])


def _wait(process: subprocess.Popen[bytes]) -> float | None:
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
