"""How fast an encoded store is read, and whether the memory that takes stays the same."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.flow import one_step, tiny_network
from rectiflow.bench.recipe import scenes_tiny
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.stores import SD3, random_store
from rectiflow.bench.timing import rates
from rectiflow.preparation.encode import Encoders
from rectiflow.processes import run
from rectiflow.sampling.load import load_encoders

MIN_PER_SECOND, MIN_TIMES_EATEN, MAX_GROWTH_MIB = 2000, 10, 64
NUM_WORKERS = 2
PASSES = 10


def measure_loader(settings: BenchSettings) -> dict[str, Figure]:
    """Samples per second out of a store that the system has in memory.

    Those of SD3's size are read by two threads, those of scenes-tiny as its recipe says.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {**_of_sd3(settings, Path(folder)), **_of_scenes_tiny(settings, Path(folder))}


def _of_sd3(settings: BenchSettings, folder: Path) -> dict[str, Figure]:
    store = folder / "sd3"
    random_store(store, SD3, settings.amount(512, 32), settings.amount(128, 16))
    num_passes = PASSES if not settings.is_quick else 2
    batch_size = settings.amount(32, 8)
    measured = read_store(store, batch_size, num_passes, NUM_WORKERS)
    widened = read_store(store, batch_size, num_passes, NUM_WORKERS, is_widened=True)
    figures = {
        "samples of 256 px": median_figure(
            measured["rates"], "1/s", at_least=MIN_PER_SECOND, note="as stored, for a GPU"
        ),
        "samples of 256 px, widened": median_figure(
            widened["rates"], "1/s", note="text states as float32, for training on a CPU"
        ),
    }
    if memory := measured["anonymous_mib"]:
        figures["growth of memory"] = Figure(
            value=growth(memory),
            unit="MiB",
            at_most=MAX_GROWTH_MIB,
            note=f"that no file backs, in {num_passes} passes; {max(memory):.0f} MiB in all",
        )
    return figures


def growth(memory: Sequence[float]) -> float:
    """How far the most of the second half lies above the most of the first.

    A single value tells how many batches were on their way just then.
    """
    half = len(memory) // 2
    return max(0.0, max(memory[half:]) - max(memory[:half]))


def _of_scenes_tiny(settings: BenchSettings, folder: Path) -> dict[str, Figure]:
    """The same of samples of scenes-tiny, against its forward and backward pass."""
    recipe, store = scenes_tiny(settings), folder / "tiny"
    arrays = Encoders(*load_encoders(dataclasses.asdict(recipe.encoders))).arrays(
        recipe.data.size_px
    )
    random_store(store, arrays, settings.amount(8192, 512), settings.amount(2048, 256))
    batch_size, num_workers = recipe.training.batch_size, recipe.training.num_workers
    num_passes = settings.amount(5, 1)
    read = read_store(store, batch_size, num_passes, num_workers, is_widened=True)["rates"]
    work = one_step(*tiny_network(settings))

    def step(repeat: int) -> int:
        work()
        return batch_size

    eaten = median_figure(rates(step, settings.repeats(9)), "1/s").value
    times = [rate / eaten for rate in read]
    note = f"{eaten:.0f} samples/s in forward and backward alone"
    return {
        "samples of scenes-tiny": median_figure(read, "1/s"),
        "times what scenes-tiny eats": median_figure(
            times, "", at_least=MIN_TIMES_EATEN, note=note
        ),
    }


def read_store(
    store: Path,
    batch_size: int,
    num_passes: int,
    num_workers: int,
    *,
    is_widened: bool = False,
) -> dict[str, Any]:
    """`reading.read_passes` in a fresh process."""
    arguments = {
        "location": str(store),
        "batch_size": batch_size,
        "num_workers": num_workers,
        "num_passes": num_passes,
        "is_widened": is_widened,
    }
    call = [sys.executable, "-m", "rectiflow.bench.reading", json.dumps(arguments)]
    return json.loads(run(call).output)
