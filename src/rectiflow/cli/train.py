"""`rectiflow train`: train what a recipe describes, or go on where it stopped."""

from pathlib import Path
from typing import Annotated

import typer

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train the model that a recipe describes.

    The same command resumes a run that stopped. Ctrl-C and SIGTERM stop with a checkpoint.
    """
    from rectiflow.jobs import run_training

    folder = run or Path("runs") / Path(recipe).stem
    with Progress() as progress:
        result = run_training(recipe, settings or [], folder, dry_run, progress)
    if as_json or dry_run:
        say_json(result)
        return
    say(f"{folder}")
    for name, value in result.items():
        if isinstance(value, int | float | str):
            say(f"  {name:<24} {value}")
