"""`rectiflow train`: train what a recipe describes, or go on where it stopped."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(
        epilog=example("rectiflow train scenes-tiny --run runs/first --set training.minutes=10")
    )(train)


def train(
    recipe: Annotated[
        str, typer.Argument(help="A packaged recipe by name, or a path to a TOML file.")
    ],
    run: Annotated[
        Path | None, typer.Option(help="Folder of the run (default: runs/<recipe>).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="A.B=VALUE", help="Change a setting; VALUE is TOML, else a string."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved recipe and its cost, train nothing."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Train the model that a recipe describes.

    The same command resumes a run that stopped. Ctrl-C and SIGTERM stop with a checkpoint. On
    several GPUs: torchrun --nproc-per-node 8 -m -- rectiflow train RECIPE --run RUN
    """
    from rectiflow.jobs import run_training

    folder = run or Path("runs") / Path(recipe).stem
    with Progress() as progress:
        result = run_training(recipe, settings or [], folder, dry_run, progress)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts
        _tell(folder, result, as_json or dry_run)
    if not dry_run and (code := exit_code(result)):
        raise typer.Exit(code)


def _tell(folder: Path, result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(result)
        return
    say(f"{folder}: {result['message']}")
    for name, value in result.items():
        if isinstance(value, float):
            say(f"  {name:<24} {value:.5g}")


def exit_code(result: Mapping[str, Any]) -> int:
    """0 if training is done, that of the signal that stopped it, or 1."""
    if result["status"] == "interrupted":
        return 128 + (signal.SIGTERM if "SIGTERM" in result["message"] else signal.SIGINT)
    return 0 if result["status"] == "finished" else 1
