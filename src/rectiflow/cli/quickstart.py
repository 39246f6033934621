"""`rectiflow quickstart`: the whole loop in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, note, say, say_json
from rectiflow.cli.train import exit_code


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(epilog=example("rectiflow quickstart --minutes 5"))(quickstart)


def quickstart(
    minutes: Annotated[float, typer.Option(help="Minutes of training.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder of the run and its report.")] = Path(
        "runs/quickstart"
    ),
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a small model, draw with it, score it, and write one report.html.

    Beside it draws and scores the model that ships with the package. The same command goes on
    where it stopped; once the model is trained, it only draws and reports again.
    """
    from rectiflow.quickstart import run_quickstart

    if not dry_run:
        note(f"pictures appear in {out / 'samples'} as the model learns")
    with Progress() as progress:
        result = run_quickstart(minutes, out, dry_run, progress)
    if as_json or dry_run:
        say_json(result)
    else:
        say(result.get("table", result.get("message", "")))
        if "report" in result:
            say(f"report: {result['report']}")
    if not dry_run and (code := exit_code(result)):
        raise typer.Exit(code)
