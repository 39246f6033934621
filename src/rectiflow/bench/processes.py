"""Fresh processes: what a user waits for, and work on one core."""

import json
import sys
from typing import Any, Final

from rectiflow.processes import run

ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
_IMPORT = (
    "import sys, time; started = time.perf_counter(); {statement}; "
    "sys.stdout.write(str(time.perf_counter() - started))"
)


def import_seconds(statement: str) -> float:
    """Seconds that a statement takes in a fresh interpreter, whose own start does not count."""
    return float(run([sys.executable, "-c", _IMPORT.format(statement=statement)]).output)


def call_on_one_core(function: str, **arguments: Any) -> Any:
    """The result of a function of `bench.pictures` in a fresh process with one thread.

    A process of its own, because libraries read the number of threads once, when they load.
    """
    call = [sys.executable, "-m", "rectiflow.bench.pictures", function, json.dumps(arguments)]
    return json.loads(run(call, ONE_THREAD).output)
