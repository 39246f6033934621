"""`rectiflow model info`: what a model is made of and what it costs."""

from typing import Annotated

import typer

from rectiflow.cli import options
from rectiflow.cli.console import example, say, say_json


def register(app: typer.Typer) -> None:
    """Add the verbs of models to the program."""
    group = typer.Typer(help="Look at models.", rich_markup_mode=None)
    group.command(epilog=example("rectiflow model info scenes-tiny --json"))(info)
    app.add_typer(group, name="model")


def info(
    model: Annotated[
        str, typer.Argument(help="A bundle by name, a bundle's folder, or a run folder.")
    ],
    as_json: options.Json = False,
) -> None:
    """Print a model's shape, parameters, FLOPs per picture and files."""
    from rectiflow.sampling.sources import find_source

    source = find_source(model)
    from rectiflow.sampling.describe import describe

    facts = describe(source)
    if as_json:
        say_json(facts)
        return
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        say(f"{name:<20} {text:,}" if isinstance(text, int) else f"{name:<20} {text}")
