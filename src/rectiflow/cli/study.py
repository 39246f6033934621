"""`rectiflow study`: many runs that differ in one thing, as a table with intervals."""

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json


def register(app: typer.Typer) -> None:
    """Add the verbs of studies to the program."""
    group = typer.Typer(help="Compare variants over seeds.", rich_markup_mode=None)
    group.command(epilog=example("rectiflow study architectures --dry-run"))(architectures)
    group.command(epilog=example("rectiflow study report studies/formulations"))(report)
    app.add_typer(group, name="study")


def architectures(
    match: Annotated[
        str, typer.Option(help="What the networks have in common: flops or parameters.")
    ] = "flops",
    seeds: Annotated[int, typer.Option(help="Runs of every network.", min=1)] = 3,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Run mmdit2, mmdit3, dit, crossdit, uvit or unet alone; may be repeated."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs and their weights.")] = Path(
        "runs/studies"
    ),
    out: Annotated[
        Path, typer.Option(help="Folder of the page and of finished runs without weights.")
    ] = Path("docs/studies"),
    report: Annotated[
        bool, typer.Option("--report", help="Write the page from finished runs, train nothing.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compare DiT, CrossDiT, UViT, UNet and MM-DiT with two and three sets of weights.

    Each run is a process of its own. The same command goes on where it stopped, also from finished
    runs that came without weights; the page is written anew after every run.
    """
    from rectiflow.scaling.architectures import architecture_study
    from rectiflow.scaling.page import write_page
    from rectiflow.scaling.runner import Places, plan_study, run_study

    study = architecture_study(match, seeds)
    cells = study.cells(only or ())
    places = Places(runs=runs, out=out)
    if dry_run:
        plan = plan_study(study, cells, places)
        say_json(plan) if as_json else say(table(plan))
        return
    # Without this SIGTERM would leave the process of a run behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if not report:
        with Progress() as progress:
            run_study(study, cells, places, progress, on_finished=lambda: write_page(study, places))
    page = write_page(study, places)
    found = plan_study(study, study.cells(), places)
    num = sum(row["state"] == "finished" for row in found["cells"])
    if as_json:
        say_json({"page": page, "finished": num, "runs": len(found["cells"])})
    else:
        say(f"{page}: {num} of {len(found['cells'])} runs finished")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of the study, as --out named it.")],
    as_json: options.Json = False,
) -> None:
    """Rank the formulations of a study as the SD3 paper does, from the runs that are there.

    Writes report.html, report.md, report.json and figures into the folder. A page beside it that
    has its name and ends in .md gets the report as a section.
    """
    from rectiflow.runs import read_json
    from rectiflow.scaling.formulation_report import write_report

    page = write_report(folder)
    found = read_json(page.with_suffix(".json"))
    if as_json:
        say_json(found)
    else:
        say(f"{page}: {found['num_runs']} of {found['num_planned']} runs")


def table(plan: Mapping[str, Any]) -> str:
    """A plan as text: one run a line, then the total."""
    columns = f"{'run':<14}{'state':<10}{'steps':>7}{'pictures':>10}{'parameters':>12}"
    lines = [f"{columns}{'MFLOP/picture':>15}{'TFLOP':>8}{'about s':>9}"]
    for row in plan["cells"]:
        lines.append(
            f"{row['cell']:<14}{row['state']:<10}{row['num_steps']:>7}{row['images_seen']:>10,}"
            f"{row['parameters']:>12,}{row['forward_flops'] / 1e6:>15.1f}"
            f"{row['training_flops'] / 1e12:>8.2f}{row['about_seconds']:>9.0f}"
        )
    lines.append(f"about {plan['about_minutes']:.0f} minutes, then {plan['page']}")
    return "\n".join(lines)
