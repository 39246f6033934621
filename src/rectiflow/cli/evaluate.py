"""`rectiflow evaluate`: draw the prompts of a suite and score the pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

USUAL = {"images_per_prompt": 1, "seed": 0, "precision": "auto"}
"""Defaults of options that are not None."""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    command = "rectiflow evaluate --bundle scenes-tiny --prompts-per-task 20 --json"
    app.command(epilog=example(command))(evaluate)


def evaluate(
    run: options.Run = None,
    bundle: options.Bundle = None,
    images: Annotated[
        Path | None, typer.Option(help="Score the pictures of a folder in GenEval's layout.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts in GenEval's JSONL (default: the scenes suite).")
    ] = None,
    images_per_prompt: Annotated[
        int, typer.Option(help="Pictures per prompt; GenEval's habit is 4.", min=1)
    ] = 1,
    prompts_per_task: Annotated[
        int | None,
        typer.Option(help="At most so many prompts of a task, seen and held out.", min=1),
    ] = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures, results.jsonl, summary (default: none kept)."),
    ] = None,
    device: options.Device = None,
    precision: options.Precision = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Score a model, or a folder of pictures, on the scenes suite.

    Beside the scores stand their controls: ground truth, ground truth through the autoencoder,
    and pictures judged by prompts that are not theirs. Where the encoders came with a vision tower
    there is also a CLIP score.
    """
    drawing = {
        "run": run,
        "bundle": bundle,
        "prompts": prompts,
        "images_per_prompt": images_per_prompt,
        "prompts_per_task": prompts_per_task,
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    if images is not None:
        _refuse_drawing(drawing)
        facts, summary = _score_folder(images, dry_run, out)
    else:
        facts, chosen = _plan(drawing)
        summary = None if dry_run else _score_model(facts, chosen, out)
    if summary is None or as_json:
        say_json({**(summary or {}), "evaluated": facts})
    else:
        say(table(summary))


def _refuse_drawing(drawing: Mapping[str, Any]) -> None:
    """Refuse options that have no effect on pictures that are there already."""
    given = [name for name, value in drawing.items() if value != USUAL.get(name)]
    if {"run", "bundle"} & set(given):
        raise ValueError("give --images, --run or --bundle, only one of them")
    if given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{names} cannot go with --images, whose pictures are drawn already")


def _plan(drawing: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What would be drawn and how, ready for JSON, and the prompts; mistakes are told here."""
    from rectiflow.devices import resolve_device, resolve_precision
    from rectiflow.sampling.options import SamplingOptions
    from rectiflow.sampling.sources import resolve_source

    given = {"num_steps": drawing["steps"], "guidance_scale": drawing["guidance"]}
    changes = {name: value for name, value in given.items() if value is not None}
    SamplingOptions(**changes)
    where = resolve_device(drawing["device"] or "auto")
    precision = resolve_precision(drawing["precision"], where)
    model = resolve_source(run=drawing["run"], bundle=drawing["bundle"]).folder
    prompts = _prompts(drawing["prompts"], drawing["prompts_per_task"])
    facts = {
        "model": model,
        "seed": drawing["seed"],
        "num_prompts": len(prompts),
        "device": str(where),
        "precision": precision,
        "images_per_prompt": drawing["images_per_prompt"],
        "options": changes,
    }
    return facts, prompts


def _prompts(file: Path | None, per_task: int | None) -> list[Any]:
    from rectiflow.evaluation.prompt_check import read_prompts
    from rectiflow.evaluation.scenes_prompts import load_prompts
    from rectiflow.evaluation.subset import evenly

    prompts = load_prompts() if file is None else read_prompts(file)
    return prompts if per_task is None else evenly(prompts, per_task)


def _score_model(facts: Mapping[str, Any], prompts: list[Any], out: Path | None) -> dict[str, Any]:
    from rectiflow.evaluation.clip_score import ClipScorer, ScoredDraw
    from rectiflow.evaluation.suite import SuiteSettings, evaluate_pictures
    from rectiflow.runs import write_json
    from rectiflow.sampling.load import load
    from rectiflow.sampling.sources import find_source

    num = facts["images_per_prompt"]
    pipeline = load(facts["model"], device=facts["device"], precision=facts["precision"])
    settings = SuiteSettings(images_per_prompt=num, size_px=pipeline.side_px)
    chosen = pipeline.with_options(facts["options"])

    def draw(texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Any]:
        return pipeline.draw(texts, [(facts["seed"], s) for s in seeds], chosen)

    scorer = ClipScorer.of(find_source(facts["model"]))
    scored = None if scorer is None else ScoredDraw(draw, scorer)
    with Progress() as progress:
        evaluation = evaluate_pictures(
            scored or draw,
            prompts,
            settings,
            round_trip=pipeline.round_trip,
            folder=out,
            facts={"seed": facts["seed"], "recipe_hash": pipeline.recipe_hash},
            on_progress=lambda done, total: progress("scoring", done, total),
        )
    if scored is not None:
        evaluation.summary["clip_score"] = scored.summary(prompts, pipeline.side_px)
    if out is not None:
        write_json(out / "summary.json", evaluation.summary)
    return evaluation.summary


def _score_folder(
    folder: Path, dry_run: bool, out: Path | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from rectiflow.evaluation.layout import read_folder, read_picture
    from rectiflow.evaluation.suite import SuiteSettings, evaluate_folder
    from rectiflow.runs import write_json

    found = read_folder(folder)
    facts = {"images": folder, "num_prompts": len(found)}
    if dry_run:
        return facts, None
    size_px = read_picture(found[0][1][0]).shape[0]
    with Progress() as progress:
        evaluation = evaluate_folder(
            folder,
            SuiteSettings(size_px=size_px),
            on_progress=lambda done, total: progress("scoring", done, total),
        )
    if out is not None:
        evaluation.write(out)
        write_json(out / "summary.json", evaluation.summary)
    return facts, evaluation.summary


def table(summary: Mapping[str, Any]) -> str:
    """The scores as text: tasks by seen, strict and held out, then the controls."""
    columns = ("tasks", "strict_tasks", "heldout_tasks")
    lines = [f"{'':<16}{'seen':>9}{'strict':>9}{'heldout':>9}"]
    for task in summary["tasks"]:
        scores = [summary[column].get(task) for column in columns]
        lines.append(f"{task:<16}" + "".join(map(_score, scores)))
    totals = [summary["overall"], summary["strict"], summary["heldout"]]
    lines.append(f"{'overall':<16}" + "".join(map(_score, totals)))
    for name, control in summary.get("controls", {}).items():
        scores = [control["overall"], control["strict"], control["heldout"]]
        lines.append(f"  {name:<14}" + "".join(map(_score, scores)))
    if clip := summary.get("clip_score"):
        controls = (f"{name} {value:.3f}" for name, value in clip.items() if name != "mean")
        lines.append(f"{'CLIP score':<16}{clip['mean']:>9.3f}  ({', '.join(controls)})")
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>9}"
