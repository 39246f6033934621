"""Passes over an encoded store as training makes them, in a process of its own.

`python -m rectiflow.bench.reading ARGUMENTS` prints JSON; ARGUMENTS is a JSON object.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rectiflow.data.store import Store
from rectiflow.data.stored import StoreSource
from rectiflow.devices import keep_freed_memory
from rectiflow.encoders.states import TextStates
from rectiflow.training.batches import Batches
from rectiflow.training.validation import to_device

STATUS = Path("/proc/self/status")


def read_passes(
    location: str, *, batch_size: int, num_workers: int, num_passes: int, is_widened: bool
) -> dict[str, Any]:
    """Read a store through, shuffled, with one drawn caption per sample.

    Args:
        location: Of the store.
        batch_size: Samples of a batch; a pass has whole batches alone.
        num_workers: Threads that prepare batches.
        num_passes: Passes that count; one more is made before, to warm up.
        is_widened: Whether text states become float32, as for training on this CPU.

    Returns:
        `rates`, samples per second of each pass, and `anonymous_mib`, the memory of the process
        that no file backs, after each of them; empty where the system does not tell it.
    """
    keep_freed_memory()  # as training on a CPU does
    source = StoreSource(Store.open(location), seed=0, states=TextStates)
    feed = Batches(source, 0, batch_size, 1, num_workers).after(0)
    num = source.num_samples // batch_size
    rates, anonymous = [], []
    _read(feed, num, is_widened)
    for _ in range(num_passes):
        began = time.perf_counter()
        _read(feed, num, is_widened)
        rates.append(num * batch_size / (time.perf_counter() - began))
        anonymous += _anonymous_mib()
    feed.close()
    return {"rates": rates, "anonymous_mib": anonymous}


def _read(feed: Iterator[Any], num: int, is_widened: bool) -> None:
    for _ in range(num):
        batch, _ = next(feed)
        if is_widened:
            to_device(batch, torch.device("cpu"))


def _anonymous_mib() -> list[float]:
    if not STATUS.exists():
        return []
    lines = STATUS.read_text().splitlines()
    return [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read_passes(**json.loads(sys.argv[1]))))
