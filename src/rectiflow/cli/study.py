"""`rectiflow study`: many runs that differ in one thing, as a table with intervals."""

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

Runs = Annotated[Path, typer.Option(help="Folder of the runs and their weights.")]
Minutes = Annotated[
    float | None, typer.Option(help="Turned once into a number of steps that all runs share.")
]
Patterns = Annotated[
    list[str] | None, typer.Option(help="Run what fits a pattern such as 'rf/*'; may be repeated.")
]
Pictures = Annotated[
    int | None, typer.Option(help="Pictures of a run in every setting (default: 128).")
]
Jobs = Annotated[
    int | None, typer.Option(help="Runs at a time (default: one a GPU, or one a core).")
]


def register(app: typer.Typer) -> None:
    """Add the verbs of studies to the program."""
    group = typer.Typer(help="Compare variants over seeds.", rich_markup_mode=None)
    group.command(epilog=example("rectiflow study architectures --dry-run"))(architectures)
    group.command(
        epilog=example(
            "rectiflow study formulations --recipe scenes-tiny --minutes-per-run 4 "
            "--out studies/formulations"
        )
    )(formulations)
    group.command(epilog=example("rectiflow study measure runs/first --pictures 128"))(measure)
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
    runs: Runs = Path("runs/studies"),
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
    from rectiflow.scaling.evaluating import evaluation, page_of, places_of
    from rectiflow.scaling.page import write_page
    from rectiflow.scaling.runner import plan_cells, run_cells
    from rectiflow.scaling.scheduling import Crew, Slot

    study = architecture_study(match, seeds)
    cells, places = study.cells(only or ()), places_of(study, runs, out)
    procedure = evaluation(study)
    if dry_run:
        plan = {**plan_cells(cells, places, procedure, 1), "page": page_of(study, out)}
        say_json(plan) if as_json else say(f"{table(plan)}, then {plan['page']}")
        return
    if not report:
        alone = Crew([Slot({})])  # its times are part of the result
        with Progress() as progress, _ended_by_sigterm():
            run_cells(cells, places, procedure, alone, progress, lambda: write_page(study, out))
    page = write_page(study, out)
    found = plan_cells(study.cells(), places, procedure, 1)
    _say_finished(found["cells"], page, as_json)


def formulations(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe of all runs (default: scenes-study).")
    ] = None,
    minutes_per_run: Minutes = None,
    steps_per_run: Annotated[int | None, typer.Option(help="That number itself.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of every formulation.", min=1)] = 2,
    only: Patterns = None,
    whole: Annotated[
        bool, typer.Option("--all", help="All 61 formulations, not the 16 rows of Table 1.")
    ] = False,
    pictures: Pictures = None,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs to use, 0 for none (default: all).")
    ] = None,
    jobs: Jobs = None,
    runs: Runs = Path("runs/studies"),
    out: Annotated[
        Path, typer.Option(help="Folder of the study: finished runs without weights.")
    ] = Path("studies/formulations"),
    listed: Annotated[
        bool, typer.Option("--list", help="Print the formulations, do nothing.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Compare the formulations of the SD3 paper under equal conditions.

    Runs are processes of their own, side by side. The same command goes on where it stopped, also
    from finished runs that came without weights. `study report` ranks what is there.
    """
    from rectiflow.scaling import formulations as study
    from rectiflow.scaling.formulation_report import write_report
    from rectiflow.scaling.runner import run_cells
    from rectiflow.scaling.scheduling import Crew, slots_of

    names = study.chosen_names(only or (), whole)
    if listed:
        say_json({"formulations": names}) if as_json else say("\n".join(names))
        return
    request = study.Request(
        recipe=recipe,
        num_steps=steps_per_run,
        minutes_per_run=minutes_per_run,
        num_pictures=pictures,
    )
    crew = Crew(slots_of(gpus, jobs))
    if dry_run:
        plan = study.plan(names, seeds, request, runs, out, len(crew.slots))
        say_json(plan) if as_json else say(table(plan))
        return
    with Progress() as progress, _ended_by_sigterm():
        budget = study.settle(runs, out, request, crew)
        study.note_plan(out, study.chosen_names(is_whole=whole), seeds)
        cells = study.cells_of(names, range(seeds), budget)
        places = study.places_of(runs, out, budget)
        report_on = lambda: write_report(out)  # noqa: E731
        run_cells(cells, places, study.procedure(budget), crew, progress, report_on)
    found = study.plan(names, seeds, request, runs, out, len(crew.slots))
    _say_finished(found["cells"], out, as_json)


def measure(
    run: Annotated[Path, typer.Argument(help="A run trained with training.retain.best=true.")],
    pictures: Pictures = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Measure a run as the formulation study does: twelve settings of sampling, both measures.

    Writes measures.json into the run's folder. The same command goes on where it stopped.
    """
    from rectiflow.config import to_dict
    from rectiflow.scaling.formulations import NUM_PICTURES
    from rectiflow.scaling.measuring import measure_run

    with Progress() as progress:
        measures = measure_run(run, pictures or NUM_PICTURES, device or "auto", progress)
    if as_json:
        say_json(to_dict(measures))
    elif measures.diverged:
        say(f"{run}: diverged, {measures.diverged}")
    else:
        say(f"{run}: step {measures.step} of {measures.num_steps}")
        for each in measures.settings:
            setting = f"{each.weights} {each.num_steps:>2} steps at {each.guidance_scale:g}"
            say(f"  {setting:<22} CLIP {each.clip:.4f}  Frechet {each.frechet:.3f}")


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


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does; without this it would leave processes behind."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_finished(rows: Sequence[Mapping[str, Any]], place: Path, as_json: bool) -> None:
    num = sum(row["state"] == "finished" for row in rows)
    if as_json:
        say_json({"place": place, "finished": num, "runs": len(rows)})
    else:
        say(f"{place}: {num} of {len(rows)} runs finished")


def table(plan: Mapping[str, Any]) -> str:
    """A plan as text: one run a line, then the total."""
    width = max(len(row["cell"]) for row in plan["cells"]) + 2
    columns = f"{'run':<{width}}{'state':<10}{'steps':>7}{'pictures':>10}{'parameters':>12}"
    lines = [f"{columns}{'MFLOP/picture':>15}{'TFLOP':>8}{'about s':>9}"]
    for row in plan["cells"]:
        lines.append(
            f"{row['cell']:<{width}}{row['state']:<10}{row['num_steps']:>7}{row['images_seen']:>10,}"
            f"{row['parameters']:>12,}{row['forward_flops'] / 1e6:>15.1f}"
            f"{row['training_flops'] / 1e12:>8.2f}{row['about_seconds']:>9.0f}"
        )
    lines.append(f"about {plan['about_minutes']:.0f} minutes")
    return "\n".join(lines)
