"""The benchmarks by name."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rectiflow.bench.figure import Figure
from rectiflow.bench.machine import machine_facts
from rectiflow.bench.quality import (
    autoencoder_names,
    measure_autoencoder,
    measure_ceilings,
    measure_evaluate,
)
from rectiflow.bench.scenes import measure_checker, measure_encode, measure_scenes
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.startup import measure_help, measure_imports, measure_sample
from rectiflow.bench.training import measure_step

Progress = Callable[[str, int, int], None]


def _needs_nothing(settings: BenchSettings) -> None:
    """Ready as installed."""


def _needs_model(settings: BenchSettings) -> None:
    from rectiflow.sampling.sources import resolve_source

    resolve_source(run=settings.run, bundle=settings.bundle)


def _needs_encoders(settings: BenchSettings) -> None:
    from rectiflow.bench.recipe import require_encoders

    require_encoders(settings)


def _needs_autoencoders(settings: BenchSettings) -> None:
    from rectiflow.sampling.sources import autoencoder_folder

    for name in autoencoder_names(settings):
        autoencoder_folder(name)


def _measure_model(settings: BenchSettings) -> Mapping[str, Figure]:
    from rectiflow.bench.model import measure_model

    return measure_model(settings)


def _measure_train(settings: BenchSettings) -> Mapping[str, Figure]:
    from rectiflow.bench.train import measure_train

    return measure_train(settings)


def _measure_flow(settings: BenchSettings) -> Mapping[str, Figure]:
    from rectiflow.bench.flow import measure_flow

    return measure_flow(settings)


def _measure_loader(settings: BenchSettings) -> Mapping[str, Figure]:
    from rectiflow.bench.loader import measure_loader

    return measure_loader(settings)


def _measure_muon(settings: BenchSettings) -> Mapping[str, Figure]:
    from rectiflow.bench.muon import measure_muon

    return measure_muon(settings)


def _needs_memory(settings: BenchSettings) -> None:
    from rectiflow.bench.model import require_memory

    require_memory(settings)


@dataclass(frozen=True)
class Benchmark:
    """Something to measure.

    Args:
        about: One line for a person.
        measure: Returns figures by name.
        require: Raises if what is to be measured is not there; called for all chosen benchmarks
            before the first one runs, which may take long.
        remedy: What the caller can do then.
        takes: Names of the settings that it takes, beside `is_quick`.
    """

    about: str
    measure: Callable[[BenchSettings], Mapping[str, Figure]]
    require: Callable[[BenchSettings], None] = _needs_nothing
    remedy: str = ""
    takes: tuple[str, ...] = ()

    def check(self, name: str, settings: BenchSettings) -> None:
        """Refuse to begin without what is to be measured.

        Raises:
            FileNotFoundError: If it is not there.
        """
        try:
            self.require(settings)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"cannot measure {name}: {error}; {self.remedy}") from error


NAME_A_MODEL = "name a model by --run or --bundle"
NAME_ENCODERS = "name encoders by --set encoders.autoencoder=RUN --set encoders.text=RUN"
NAME_AUTOENCODERS = "name autoencoders by --autoencoder"


BENCHMARKS: Mapping[str, Benchmark] = {
    "imports": Benchmark(
        "`import rectiflow` against `import torch`", measure_imports, takes=("num_repeats",)
    ),
    "help": Benchmark("`rectiflow --help`", measure_help, takes=("num_repeats",)),
    "scenes": Benchmark("scenes rendered on one core", measure_scenes, takes=("num_repeats",)),
    "checker": Benchmark("pictures judged on one core", measure_checker, takes=("num_repeats",)),
    "encode": Benchmark(
        "scenes encoded into a store",
        measure_encode,
        _needs_encoders,
        NAME_ENCODERS,
        ("assignments", "num_repeats"),
    ),
    "loader": Benchmark(
        "samples read from an encoded store",
        _measure_loader,
        _needs_encoders,
        NAME_ENCODERS,
        ("assignments", "num_repeats"),
    ),
    "step": Benchmark(
        "training step of scenes-tiny",
        measure_step,
        _needs_encoders,
        NAME_ENCODERS,
        ("assignments",),
    ),
    "flow": Benchmark(
        "the flow's mathematics beside its network, Frechet distance",
        _measure_flow,
        _needs_encoders,
        NAME_ENCODERS,
        ("assignments", "num_repeats"),
    ),
    "sample": Benchmark(
        "one prompt, cold process",
        measure_sample,
        _needs_model,
        NAME_A_MODEL,
        ("run", "bundle", "num_repeats"),
    ),
    "evaluate": Benchmark(
        "the suite and its scores",
        measure_evaluate,
        _needs_model,
        NAME_A_MODEL,
        ("run", "bundle"),
    ),
    "autoencoder": Benchmark(
        "PSNR, SSIM and agreement of autoencoders",
        measure_autoencoder,
        _needs_autoencoders,
        NAME_AUTOENCODERS,
        ("autoencoders",),
    ),
    "model": Benchmark(
        "our MM-DiT against diffusers', same weights",
        _measure_model,
        _needs_memory,
        takes=("depths", "precisions", "is_compiled", "device", "num_repeats"),
    ),
    "muon": Benchmark(
        "our Muon against torch.optim.Muon, same matrices",
        _measure_muon,
        takes=("depths", "device", "num_repeats"),
    ),
    "train": Benchmark(
        "our training step, lever by lever, against a loop around diffusers' network",
        _measure_train,
        _needs_memory,
        takes=("depths", "sizes_px", "batch_size", "with_fp8", "device", "num_repeats"),
    ),
    "ceilings": Benchmark("what the checker accepts, rightly and wrongly", measure_ceilings),
}


def run_benchmarks(
    names: Sequence[str],
    settings: BenchSettings | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure and report.

    Args:
        names: Of benchmarks; an empty list is refused.
        settings: What is measured, and how thoroughly.
        on_progress: Called as (name, number done, number of all) before each and at the end.

    Returns:
        `machine`: what it ran on. `quick`: whether this was a rough look. `figures`: by
        "benchmark: figure", each with `value`, `unit`, `bar` (such as "<= 1.2", or None) and `met`.

    Raises:
        ValueError: If a name is unknown, or a setting has no effect on what is chosen.
        FileNotFoundError: If a model or an encoder that is needed is not there.
    """
    settings = settings or BenchSettings()
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or not names:
        wrong = f"no benchmark {unknown[0]!r}" if unknown else "name at least one benchmark"
        raise ValueError(f"{wrong}; known: {', '.join(BENCHMARKS)}")
    _refuse_without_effect(names, settings)
    for name in names:
        BENCHMARKS[name].check(name, settings)
    machine = machine_facts()  # before the work, so that the load is not our own
    figures = {}
    for done, name in enumerate(names):
        if on_progress:
            on_progress(name, done, len(names))
        for figure_name, figure in BENCHMARKS[name].measure(settings).items():
            if settings.is_quick:
                figure = dataclasses.replace(figure, at_most=None, at_least=None)
            figures[f"{name}: {figure_name}"] = figure.row()
    if on_progress:
        on_progress(names[-1], len(names), len(names))
    return {"machine": machine, "quick": settings.is_quick, "figures": figures}


def _refuse_without_effect(names: Sequence[str], settings: BenchSettings) -> None:
    """Refuse a setting that none of the chosen benchmarks takes."""
    taken = {"is_quick"}.union(*(BENCHMARKS[name].takes for name in names))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in taken and value != field.default:
            takers = [name for name, each in BENCHMARKS.items() if field.name in each.takes]
            raise ValueError(
                f"{field.name} must be left out for {', '.join(names)}, "
                f"it has an effect on {', '.join(takers)} alone; got {value}"
            )
