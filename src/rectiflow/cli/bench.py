"""`rectiflow bench`: measure speed and memory on this machine."""

from typing import Annotated

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(epilog=example("rectiflow bench scenes step --json"))(bench)


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="What to measure (default: everything).")
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Measure speed and memory: imports, scenes, training step, sampling."""
    from rectiflow.bench import BENCHMARKS, run_benchmarks

    unknown = sorted(set(names or ()) - set(BENCHMARKS))
    if unknown:
        raise ValueError(f"no benchmark {unknown[0]!r}; known: {', '.join(BENCHMARKS)}")
    chosen = list(names or BENCHMARKS)
    if dry_run:
        say_json(chosen) if as_json else say("\n".join(chosen))
        return
    with Progress() as progress:
        figures = run_benchmarks(chosen, progress)
    if as_json:
        say_json(figures)
        return
    for name, value in figures.items():
        say(f"{name:<36} {value}")
