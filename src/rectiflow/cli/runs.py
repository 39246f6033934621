"""`rectiflow runs`: what run folders say, while they are trained and after."""

import math
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rectiflow.cli import options
from rectiflow.cli.console import example, note, say, say_json

Folders = Annotated[
    list[Path] | None, typer.Argument(help="Run folders, or folders that hold some.")
]
DEFAULT = Path("runs")


def register(app: typer.Typer) -> None:
    """Add the verbs of runs to the program."""
    group = typer.Typer(help="Watch runs, and compare them.", rich_markup_mode=None)
    for verb, command in (
        (list_runs, "rectiflow runs list runs/ --sort validation"),
        (show, "rectiflow runs show runs/first"),
        (compare, "rectiflow runs compare runs/first runs/second"),
        (plot, "rectiflow runs plot runs/first --out first.html"),
    ):
        group.command(verb.__name__.removesuffix("_runs"), epilog=example(command))(verb)
    app.add_typer(group, name="runs")


def list_runs(
    folders: Folders = None,
    sort: Annotated[
        Literal["place", "name", "written", "validation"],
        typer.Option(help="The order; written: the newest first, validation: the least first."),
    ] = "place",
    as_json: options.Json = False,
) -> None:
    """List runs: state, step, losses, speed, time left (default: those under runs/)."""
    from rectiflow.watching.records import LAST_BYTES, read_runs
    from rectiflow.watching.summary import (
        LIST_HEAD,
        facts_of,
        filled,
        list_rows,
        text_table,
        validation,
    )

    places, now = folders or [DEFAULT], time.time()
    records = read_runs(places, now, LAST_BYTES)
    if sort == "name":
        records.sort(key=lambda record: record.name)
    elif sort == "written":
        records.sort(key=lambda record: -record.updated)
    elif sort == "validation":
        records.sort(key=lambda r: (math.inf if (v := validation(r)) is None else v, r.name))
    if as_json:
        say_json([facts_of(record, now) for record in records])
    elif not records:
        note(f"no runs under {', '.join(map(str, places))}")
    else:
        for line in text_table(*filled(LIST_HEAD, list_rows(records, now))):
            say(line)


def show(folders: Folders = None, as_json: options.Json = False) -> None:
    """Tell all there is to say of each run."""
    from rectiflow.watching.summary import details, facts_of, metric_rows, show_lines

    now = time.time()
    records = _records(folders, now)
    if as_json:
        say_json(
            [
                {
                    **facts_of(record, now),
                    "details": dict(details(record)),
                    "metrics": {name: record.metric(name) for name, *_ in metric_rows(record)},
                    "recipe": dict(record.config),
                }
                for record in records
            ]
        )
        return
    for k, record in enumerate(records):
        say("\n" * (k > 0) + "\n".join(show_lines(record, now)))


def compare(folders: Folders = None, as_json: options.Json = False) -> None:
    """Tell what differs in the recipes of runs beside what differs in their results."""
    from rectiflow.watching.comparing import compare, comparison_lines

    comparison = compare(_records(folders, time.time()))
    if as_json:
        say_json(
            {
                "runs": list(comparison.names),
                **{
                    part: {row.name: list(row.values) for row in getattr(comparison, part)}
                    for part in ("recipe", "made_on", "results")
                },
                "notes": list(comparison.notes),
            }
        )
        return
    for line in comparison_lines(comparison):
        say(line)


def plot(
    folders: Folders = None,
    out: Annotated[
        Path, typer.Option(help="A page (.html), or the charts alone (.svg, .png).")
    ] = Path("runs.html"),
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Draw this metric alone, over steps; may be repeated (.svg, .png)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Draw loss curves, losses by time and pictures over time, of one run or of several."""
    from rectiflow.watching.page import write_plot

    now = time.time()
    records = _records(folders, now)
    write_plot(records, out, now, metric or ())
    if as_json:
        say_json({"out": out, "runs": [record.name for record in records]})
    else:
        say(f"{out}")


def _records(folders: list[Path] | None, now: float) -> list[Any]:
    from rectiflow.watching.records import read_runs

    places = folders or [DEFAULT]
    records = read_runs(places, now)
    if not records:
        raise ValueError(f"no runs under {', '.join(map(str, places))}")
    return records
