"""What one waits for: imports, help, and one picture from a cold process."""

import tempfile
from functools import partial

from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.processes import import_seconds
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.timing import pairs, ratios
from rectiflow.processes import Finished, run_rectiflow

MAX_IMPORT_RATIO = 1.2
MAX_HELP_SECONDS = 0.5
MAX_SAMPLE_SECONDS = 12.0
PROMPT = "two red circles"


def measure_imports(settings: BenchSettings) -> dict[str, Figure]:
    """`import rectiflow` against `import torch`, each in a fresh process, in turn.

    `loaded` is what a caller pays who then draws: all that `rectiflow.load` needs.
    """
    num = settings.repeats(9)
    import_seconds("import torch, rectiflow; rectiflow.load")  # files into the system's cache
    torch_alone = partial(import_seconds, "import torch")
    package = pairs(torch_alone, partial(import_seconds, "import rectiflow"), num)
    loaded = pairs(torch_alone, partial(import_seconds, "import rectiflow; rectiflow.load"), num)
    return {
        "package / torch": median_figure(ratios(package), "", at_most=MAX_IMPORT_RATIO),
        "loaded / torch": median_figure(ratios(loaded), ""),
        "package seconds": median_figure([second for _, second in package], "s"),
        "loaded seconds": median_figure([second for _, second in loaded], "s"),
        "torch seconds": median_figure([first for first, _ in package + loaded], "s"),
    }


def measure_help(settings: BenchSettings) -> dict[str, Figure]:
    """`rectiflow --help`, from the start of the process to its end."""
    run_rectiflow("--help")
    seconds = [run_rectiflow("--help").seconds for _ in range(settings.repeats(11))]
    return {"seconds": median_figure(seconds, "s", at_most=MAX_HELP_SECONDS)}


def measure_sample(settings: BenchSettings) -> dict[str, Figure]:
    """One prompt in a fresh process, from its start to the picture on disk."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("sample", PROMPT, *settings.model(), "--out", folder)
        done = [run_rectiflow(*command) for _ in range(settings.repeats(3))]
    seconds = [one.seconds for one in done]
    figures = {"seconds": median_figure(seconds, "s", at_most=MAX_SAMPLE_SECONDS)}
    return figures | peak_memory(done)


def peak_memory(done: list[Finished]) -> dict[str, Figure]:
    """The most memory any of the processes held; nothing where the system does not tell."""
    peaks = [one.peak_mib for one in done if one.peak_mib is not None]
    return {"peak memory": Figure(value=max(peaks), unit="MiB")} if peaks else {}
