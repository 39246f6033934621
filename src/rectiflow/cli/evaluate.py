"""`rectiflow evaluate`: draw the prompts of a suite and score the pictures."""

from pathlib import Path
from typing import Annotated

import typer

from rectiflow.cli.console import example, say_json
from rectiflow.cli.sample import BundleOption, DeviceOption, PrecisionOption, RunOption


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(
        epilog=example("rectiflow evaluate --bundle scenes-tiny --prompts-per-task 20 --json")
    )(evaluate)


def evaluate(
    run: RunOption = None,
    bundle: BundleOption = None,
    images: Annotated[
        Path | None, typer.Option(help="Score the pictures of a folder in GenEval's layout.")
    ] = None,
    images_per_prompt: Annotated[
        int, typer.Option(help="Pictures per prompt (GenEval draws 4).", min=1)
    ] = 1,
    prompts_per_task: Annotated[
        int | None, typer.Option(help="Only the first prompts of each task and split.", min=1)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the solver.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance; 1 is off.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write pictures, results.jsonl and summary.json here.")
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be drawn and scored, do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a model, or a folder of pictures, on the scenes suite."""
    say_json({})
