"""Work done in processes that are killed: at a moment of the clock, or before a file event.

They are forked from one that has the heavy libraries loaded, so that a kill costs a fraction of a
second. File events are what Python's audit hooks tell of opening, renaming, removing: nearly all
moments at which something is half there lie between two of these, and hardly any moment that a
clock picks does.

As a program it is that process:  python -m tests.faults.killing MODULE
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


class Worker:
    """Does the functions of a module, each in a process of its own.

    Args:
        module: Its full name.
    """

    def __init__(self, module):
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.faults.killing", module]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=ROOT
        )

    def close(self):
        """End the process that the others are forked from."""
        self._server.communicate(timeout=60)

    def count_events(self, name, *args, root):
        """Do it, and tell how many file events it has below the folder `root`."""
        self.start(name, *args, root=root)
        code, num_events = self.end()
        assert code == 0, f"{name} ended with {code}"
        return num_events

    def do(self, name, *args, event=None, root=None, seconds=None, number=signal.SIGKILL):
        """Do it.

        Args:
            name: Of the function.
            args: Its arguments.
            event: Kill it before this event, counted from 1, below the folder `root`.
            root: See `event`.
            seconds: Send it a signal so long after its start.
            number: Of that signal.

        Returns:
            How it ended: its exit code, or minus the number of the signal that killed it.
        """
        pid = self.start(name, *args, event=event, root=root)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(pid, number)  # it is there, if only as a name, until its end is asked for
        return self.end()[0]

    def seconds_of(self, name, *args):
        """Do it, and tell how long it takes."""
        started = time.monotonic()
        assert self.do(name, *args) == 0
        return time.monotonic() - started

    def start(self, name, *args, **more):
        """Begin with it and give its process; `event` and `root` as in `do`."""
        order = {"name": name, "args": args, **more}
        return self._ask(json.dumps(order, default=str))

    def end(self):
        """Wait for its end: how it ended, and how many file events it had."""
        return self._ask("")

    def _ask(self, line):
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _serve(module):
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)  # the other end of stdout reads JSON
            _obey(module, writing, **json.loads(line))
        os.close(writing)
        _say(pid)
        sys.stdin.readline()
        with os.fdopen(reading) as stream:
            counted = stream.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _say([code, int(counted or 0)])


def _say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _obey(module, writing, name, args, event=None, root=None):
    num = 0

    def hear(what, values):
        nonlocal num
        if root is not None and what in EVENTS and _is_below(values[0], root):
            num += 1
            if num == event:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(hear)
        getattr(module, name)(*args)
        os.write(writing, str(num).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _is_below(path, folder):
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder)


if __name__ == "__main__":
    _serve(importlib.import_module(sys.argv[1]))
