"""`rectiflow evaluate`: draw the prompts of a suite and score the pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

if TYPE_CHECKING:
    from rectiflow.evaluation.kept import KeptPictures
    from rectiflow.sampling.options import SamplingOptions
    from rectiflow.sampling.pipeline import Pipeline

USUAL = {"images_per_prompt": 1, "seed": 0, "precision": "auto"}
"""Defaults of options that are not None."""

DEFAULT_CLIP = "scenes-tiny"
"""Bundle whose CLIP measures pictures of an unknown model."""

NUM_REFERENCE = 5000
"""True scenes that a Frechet distance is taken to; as many for all models, or values differ."""

Images = Annotated[
    Path | None, typer.Option(help="Score the pictures of a folder in GenEval's layout.")
]
Prompts = Annotated[
    Path | None, typer.Option(help="Prompts in GenEval's JSONL (default: the scenes suite).")
]
ImagesPerPrompt = Annotated[
    int, typer.Option(help="Pictures per prompt; GenEval's habit is 4.", min=1)
]
PromptsPerTask = Annotated[
    int | None, typer.Option(help="At most so many prompts of a task, seen and held out.", min=1)
]
Frechet = Annotated[
    bool, typer.Option("--frechet", help="Frechet distance to true scenes, in CLIP features.")
]
Reference = Annotated[
    int | None, typer.Option(help=f"True scenes to take it to (default: {NUM_REFERENCE}).", min=2)
]
Clip = Annotated[
    str | None,
    typer.Option(
        help="CLIP that measures pictures: a local folder in transformers' layout, a bundle or a "
        "run (default: the model's own)."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of pictures, results.jsonl, summary (default: none kept); the same command "
        "goes on where it was stopped."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    command = "rectiflow evaluate --bundle scenes-tiny --prompts-per-task 20 --json"
    app.command(epilog=example(command))(evaluate)


def evaluate(
    run: options.Run = None,
    bundle: options.Bundle = None,
    images: Images = None,
    prompts: Prompts = None,
    images_per_prompt: ImagesPerPrompt = 1,
    prompts_per_task: PromptsPerTask = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    frechet: Frechet = False,
    reference: Reference = None,
    clip: Clip = None,
    out: Out = None,
    device: options.Device = None,
    precision: options.Precision = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Score a model, or a folder of pictures, on the scenes suite.

    Beside the scores stand their controls: ground truth, ground truth through the autoencoder,
    and pictures judged by prompts that are not theirs. Where the encoders came with a vision tower
    there is also a CLIP score; on pictures of a folder, with --clip or --frechet.
    """
    if reference is not None and not frechet:
        raise ValueError(f"--reference {reference} has no effect without --frechet")
    num_reference = (reference or NUM_REFERENCE) if frechet else None
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
        facts, summary = _score_folder(images, clip, num_reference, dry_run, out)
    else:
        facts, chosen = _plan(drawing)
        tower = _clip(clip, facts, num_reference)
        summary = None if dry_run else _score_model(facts, chosen, tower, out)
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


def _clip(name: str | None, facts: dict[str, Any], num_reference: int | None) -> Any:
    """The CLIP that measures pictures, noted in `facts`; None where there is none."""
    from rectiflow.evaluation.features import own_clip
    from rectiflow.evaluation.hugging_face_clip import find_clip
    from rectiflow.sampling.sources import find_source

    device = facts.get("device", "cpu")
    found = (
        own_clip(find_source(facts["model"]), device) if name is None else find_clip(name, device)
    )
    if found is None and num_reference is not None:
        raise ValueError(
            f"--frechet needs a CLIP, and {facts['model']} has none: its encoders came without a "
            "vision tower; give --clip"
        )
    if found is not None:
        facts["clip"] = {"name": found.name, "width": found.width}
    if num_reference is not None:
        facts["num_reference"] = num_reference
    return found


def _score_model(
    facts: Mapping[str, Any], prompts: list[Any], clip: Any, out: Path | None
) -> dict[str, Any]:
    from rectiflow.evaluation.measures import RememberedPictures
    from rectiflow.evaluation.suite import SuiteSettings, evaluate_pictures
    from rectiflow.sampling.load import load

    num = facts["images_per_prompt"]
    pipeline = load(facts["model"], device=facts["device"], precision=facts["precision"])
    settings = SuiteSettings(images_per_prompt=num, size_px=pipeline.side_px)
    chosen = pipeline.with_options(facts["options"])

    def draw(texts: Sequence[str], seeds: Sequence[int]) -> Sequence[Any]:
        return pipeline.draw(texts, [(facts["seed"], s) for s in seeds], chosen)

    seen = RememberedPictures()
    with Progress() as progress:
        evaluation = evaluate_pictures(
            draw,
            prompts,
            settings,
            round_trip=pipeline.round_trip,
            kept=None if out is None else _kept(out, facts, pipeline, chosen),
            on_pictures=seen,
            on_progress=lambda done, total: progress("scoring", done, total),
        )
    shown = (seen.pictures, seen.prompts, prompts)
    return _finished(evaluation.summary, facts, clip, shown, pipeline.side_px, out)


def _kept(
    out: Path, facts: Mapping[str, Any], pipeline: "Pipeline", chosen: "SamplingOptions"
) -> "KeptPictures":
    """Where the pictures are kept, and what decides them."""
    from rectiflow.evaluation.kept import KeptPictures

    place = {name: facts[name] for name in ("device", "precision")}
    settings = {**place, "options": asdict(chosen), **pipeline.hashes()}
    return KeptPictures(out, {"seed": facts["seed"], "recipe_hash": pipeline.recipe_hash}, settings)


def _score_folder(
    folder: Path, clip: str | None, num_reference: int | None, dry_run: bool, out: Path | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    from rectiflow.evaluation.layout import read_folder, read_picture
    from rectiflow.evaluation.suite import SuiteSettings, evaluate_folder

    found = read_folder(folder)
    facts: dict[str, Any] = {"images": folder, "num_prompts": len(found)}
    tower = None
    if clip is not None or num_reference is not None:
        tower = _clip(clip or DEFAULT_CLIP, facts, num_reference)
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
    files = [(file, prompt) for prompt, shown in found for file in shown]
    pictures = [read_picture(file) for file, _ in files] if tower is not None else []
    shown = (pictures, [prompt["prompt"] for _, prompt in files], [prompt for prompt, _ in found])
    return facts, _finished(evaluation.summary, facts, tower, shown, size_px, out)


def _finished(
    summary: dict[str, Any],
    facts: Mapping[str, Any],
    clip: Any,
    shown: tuple[Sequence[Any], Sequence[str], Sequence[Any]],
    size_px: int,
    out: Path | None,
) -> dict[str, Any]:
    """The summary with what the CLIP says of pictures, their prompts, and all prompts' metadata."""
    from rectiflow.evaluation.measures import clip_measures
    from rectiflow.evaluation.prompt_check import checked
    from rectiflow.evaluation.reference import cache_folder
    from rectiflow.runs import write_json

    if clip is not None:
        pictures, texts, asked = shown
        with Progress() as progress:
            measured = clip_measures(
                clip,
                pictures,
                texts,
                [checked(prompt, i) for i, prompt in enumerate(asked)],
                size_px,
                num_reference=facts.get("num_reference"),
                cache=cache_folder(),
                on_progress=lambda done, total: progress("true scenes", done, total),
            )
        summary.update(measured)
    if out is not None:
        write_json(out / "summary.json", summary)
    return summary


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
    if distance := summary.get("frechet"):
        sides = f"{distance['num_pictures']} pictures, {distance['num_reference']} true scenes"
        floor = f"ground_truth {distance['ground_truth']:.3f}"
        lines.append(f"{'Frechet':<16}{distance['distance']:>9.3f}  ({floor}; {sides})")
    return "\n".join(lines)


def _score(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3f}':>9}"
