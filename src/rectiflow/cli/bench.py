"""`rectiflow bench`: measure speed, memory and the checker's limits on this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

Names = Annotated[list[str] | None, typer.Argument(help="What to measure (default: everything).")]
Autoencoders = Annotated[
    list[Path] | None,
    typer.Option(
        "--autoencoder", help="Autoencoder to measure: a run, bundle or folder; may be repeated."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change the recipe that encode and step run."),
]
Depths = Annotated[
    list[int] | None,
    typer.Option(
        "--depth", help="Depth of the networks of `model`, `train`; may be repeated (default: 12)."
    ),
]
Sizes = Annotated[
    list[int] | None,
    typer.Option(
        "--size-px", help="Side of the pictures of `train`; may be repeated (default: 256)."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Samples of a step of `train`.")
]
Fp8 = Annotated[bool, typer.Option("--fp8", help="Measure `train` in fp8 too, on a GPU.")]
Precisions = Annotated[
    list[str] | None,
    typer.Option("--precision", help="fp32 or bf16, of `model`; may be repeated (default: both)."),
]
Compiled = Annotated[bool, typer.Option("--compile", help="Compile the networks of `model`.")]
Repeats = Annotated[
    int | None, typer.Option(help="Measurements of each thing (default: what suits it).")
]
Quick = Annotated[bool, typer.Option("--quick", help="A rough look, held against no bar.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(epilog=example("rectiflow bench scenes step --json"))(bench)


def bench(
    names: Names = None,
    run: options.Run = None,
    bundle: options.Bundle = None,
    autoencoders: Autoencoders = None,
    settings: Settings = None,
    depths: Depths = None,
    sizes: Sizes = None,
    batch_size: BatchSize = None,
    fp8: Fp8 = False,
    precisions: Precisions = None,
    compiled: Compiled = False,
    device: options.Device = None,
    repeats: Repeats = None,
    quick: Quick = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Measure speed, memory and the checker's limits, each figure beside its bar."""
    from rectiflow.bench import BENCHMARKS, BenchSettings, run_benchmarks

    unknown = sorted(set(names or ()) - set(BENCHMARKS))
    if unknown:
        raise ValueError(f"no benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    chosen = list(dict.fromkeys(names or BENCHMARKS))
    choices = BenchSettings(
        run=run,
        bundle=bundle,
        autoencoders=tuple(map(str, autoencoders or ())),
        assignments=tuple(settings or ()),
        depths=tuple(depths or BenchSettings.depths),
        sizes_px=tuple(sizes or BenchSettings.sizes_px),
        batch_size=batch_size,
        with_fp8=fp8,
        precisions=tuple(precisions or BenchSettings.precisions),
        is_compiled=compiled,
        device=device,
        num_repeats=repeats,
        is_quick=quick,
    )
    if dry_run:
        about = {name: BENCHMARKS[name].about for name in chosen}
        say_json(about) if as_json else say("\n".join(f"{n:<12} {t}" for n, t in about.items()))
        return
    with Progress() as progress:
        report = run_benchmarks(
            chosen, choices, lambda name, done, total: progress(f"measuring {name}", done, total)
        )
    say_json(report) if as_json else say(table(report))


def table(report: Mapping[str, Any]) -> str:
    """The report as text: the machine, then one figure a line."""
    lines = [", ".join(f"{name} {value}" for name, value in report["machine"].items())]
    width = max(map(len, report["figures"]), default=0)
    for name, row in report["figures"].items():
        bar = f"{row['bar'] or '':<10}"
        verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
        value = f"{row['value']:>11.4g} {row['unit']:<12}"
        lines.append(f"{name:<{width}} {value} {bar} {verdict}".rstrip())
    return "\n".join(lines)
