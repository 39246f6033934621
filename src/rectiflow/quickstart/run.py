"""The quickstart: the recipe scenes-tiny on fewer scenes, drawn and scored beside the reference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rectiflow.jobs import run_training
from rectiflow.jobs.job import Progress
from rectiflow.machine import num_cores
from rectiflow.quickstart.findings import Findings, ModelFindings
from rectiflow.quickstart.learning import learning_of
from rectiflow.quickstart.machine import machine_facts
from rectiflow.quickstart.models import findings_of
from rectiflow.quickstart.plan import plan
from rectiflow.quickstart.prompts import PROMPTS, UNSEEN
from rectiflow.quickstart.recipe import RECIPE, SETTINGS, commands_for, settings_of
from rectiflow.quickstart.report import report_html, score
from rectiflow.quickstart.stages import Stages
from rectiflow.runs import Run, write_bytes
from rectiflow.sampling.sources import DEFAULT_BUNDLE, find_source
from rectiflow.training.recipe import FlowRecipe, load_recipe
from rectiflow.training.resume import check_claim

PROMPTS_PER_TASK = 20


def run_quickstart(
    minutes: float | None,
    out: Path,
    dry_run: bool,
    progress: Progress,
    *,
    reference: str = DEFAULT_BUNDLE,
    per_task: int = PROMPTS_PER_TASK,
    settings: Sequence[str] = (),
) -> Mapping[str, Any]:
    """Train a small model, draw and score with it and with the reference, write a report.

    The same command goes on where it stopped; of a finished run it draws, scores and reports again.

    Args:
        minutes: Of training; None if `settings` tell its length.
        out: Folder of the run; the report is its `report.html`.
        dry_run: Whether to return what would be done instead.
        progress: Told how far the work is.
        reference: A bundle by name, or the folder of a bundle or run.
        per_task: Prompts of every task that are scored.
        settings: Further changes of the recipe, each "section.field=value".

    Returns:
        `status` and `message` of the training; then, unless it was interrupted, `report`, `table`,
        `scores` and `seconds`.

    Raises:
        ValueError: If a setting is wrong, or `out` holds a run of other settings.
        FileNotFoundError: If the reference is not there.
    """
    length = [] if minutes is None else [f"training.minutes={minutes}"]
    assignments = [*SETTINGS, *length, *settings]
    recipe = load_recipe(RECIPE, assignments)
    assert isinstance(recipe, FlowRecipe)
    run = Run(out)
    _refuse_other_minutes(run, recipe.training.minutes)
    find_source(reference)
    if dry_run:
        return plan(recipe, assignments, out, per_task, progress)
    check_claim(run, recipe)
    stages = Stages(progress, out / "timings.json")
    outcome = _train(run, assignments, stages)
    if outcome["status"] == "interrupted":
        return outcome
    findings = _findings(recipe, run, reference, per_task, stages, outcome["step"])
    report = out / "report.html"
    write_bytes(report, report_html(findings).encode())
    return {
        **outcome,
        "report": str(report),
        "table": short_table(findings.fresh, findings.reference),
        "scores": {m.name: m.summary for m in (findings.fresh, findings.reference)},
        "seconds": findings.seconds,
    }


def _refuse_other_minutes(run: Run, minutes: float | None) -> None:
    if not run.config_path.is_file() or run.config().get("name") != RECIPE:
        return  # `check_claim` tells what else may be wrong with the folder
    before = run.config()["training"]["minutes"]
    if before != minutes:
        raise ValueError(
            f"{run.folder} holds a run of {before} minutes, not {minutes}: "
            f"give --minutes {before} to go on with it, or another --out"
        )


def _train(run: Run, assignments: Sequence[str], stages: Stages) -> dict[str, Any]:
    """Train until the run is finished, unless it is."""
    result = run.result() or {}
    if "export" in result:
        steps = result["num_steps"]
        message = f"{run.folder} is finished"
        return {"status": "finished", "message": message, "step": steps, "num_steps": steps}
    stages.begin("loading")
    try:
        outcome = run_training(RECIPE, assignments, run.folder, False, stages)
    finally:
        stages.save()
    return dict(outcome)


def _findings(
    recipe: FlowRecipe, run: Run, reference: str, per_task: int, stages: Stages, steps: int
) -> Findings:
    fresh, other = (
        findings_of(
            source,
            name,
            num_steps=num_steps,
            per_task=per_task,
            folder=run.folder / "evaluation" / place,
            progress=stages,
        )
        for source, name, place, num_steps in (
            (str(run.folder), "this run", "fresh", steps),
            (reference, "reference", "reference", None),
        )
    )
    stages.save()
    return Findings(
        headline=_headline(fresh, run),
        prompts=PROMPTS,
        unseen=frozenset(UNSEEN),
        fresh=fresh,
        reference=other,
        learning=learning_of(run, recipe.sampling.num_pictures, recipe.data.size_px),
        metrics=run.metrics(),
        settings=list(settings_of(recipe)),
        seconds=stages.seconds,
        machine=machine_facts(fresh.facts["device"]),
        commands=commands_for(run.folder),
    )


def _headline(fresh: ModelFindings, run: Run) -> str:
    device = fresh.facts["device"]
    where = f"a CPU ({num_cores()} cores)" if device == "cpu" else device
    millions = fresh.facts["parameters"] / 1e6
    text = (
        f"An MM-DiT of {millions:.1f} million parameters, trained from scratch for "
        f"{fresh.facts['steps']:,} steps on {where}."
    )
    if run.result() is None:
        text += " The clock stopped it before its last step; the same command trains on."
    return text


def short_table(fresh: ModelFindings, reference: ModelFindings) -> str:
    """The scores as lines of text."""
    lines = [f"{'':<16}{fresh.name:>12}{reference.name:>14}"]
    for task in fresh.summary["tasks"]:
        values = (model.summary["tasks"].get(task) for model in (fresh, reference))
        lines.append(_line(task, *values))
    lines.append(_line("overall", fresh.summary["overall"], reference.summary["overall"]))
    return "\n".join(lines)


def _line(name: str, first: float | None, second: float | None) -> str:
    return f"{name:<16}{score(first):>12}{score(second):>14}"
