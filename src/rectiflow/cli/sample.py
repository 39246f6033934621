"""`rectiflow sample`: draw pictures for prompts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

Prompt = Annotated[list[str] | None, typer.Argument(help="One or more prompts.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file of prompts, one per line.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the pictures (default: RUN/samples or samples).")
]
Num = Annotated[int, typer.Option(help="Pictures per prompt.")]
Seed = Annotated[int, typer.Option(help="Picture i is a function of (seed, i).")]
Negative = Annotated[str, typer.Option(help="What to steer away from.")]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Pixels (default: as trained).")]
Solver = Annotated[str | None, typer.Option(help="euler, midpoint or heun.")]
Shift = Annotated[float | None, typer.Option(help="Move the time grid towards noise; 1 is off.")]
Without = Annotated[
    list[str] | None, typer.Option(help="Leave out a text encoder: clip_l, clip_g or t5.")
]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also write all pictures on one sheet.png.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(
        epilog=example(
            'rectiflow sample "two red circles" "a blue star left of a green square" --out pictures'
        )
    )(sample)


def sample(
    prompt: Prompt = None,
    run: options.Run = None,
    bundle: options.Bundle = None,
    prompts: Prompts = None,
    out: Out = None,
    num: Num = 1,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: Seed = 0,
    negative: Negative = "",
    size: Size = None,
    solver: Solver = None,
    shift: Shift = None,
    without: Without = None,
    device: options.Device = None,
    precision: options.Precision = "auto",
    sheet: Sheet = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures for prompts with a trained model."""
    from rectiflow.devices import resolve_device, resolve_precision
    from rectiflow.sampling.options import SamplingOptions
    from rectiflow.sampling.sources import resolve_source

    texts = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not texts:
        raise ValueError("sample needs a prompt, or --prompts FILE with one per line")
    given = {
        "num_images_per_prompt": num,
        "seed": seed,
        "negative": negative,
        "num_steps": steps,
        "guidance_scale": guidance,
        "size": parse_size(size) if size else None,
        "solver": solver,
        "shift": shift,
        "without": tuple(without or ()),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    SamplingOptions(**changes)  # a mistake is told before the model is looked for
    where = resolve_device(device or "auto")
    place = str(where), resolve_precision(precision, where)
    source = resolve_source(run=run, bundle=bundle)
    folder = out or (source.folder / "samples" if source.kind == "run" else Path("samples"))
    if dry_run:
        plan = {"model": source.folder, "device": place[0], "precision": place[1]}
        say_json({**plan, "prompts": texts, "out": folder, "options": changes})
        return
    written = _draw(source.folder, texts, changes, folder, place, sheet)
    if as_json:
        say_json([str(path) for path in written])
    else:
        say("\n".join(str(path) for path in written))


def _draw(
    model: Path,
    texts: list[str],
    changes: dict[str, Any],
    folder: Path,
    place: tuple[str, str],
    has_sheet: bool,
) -> list[Path]:
    from rectiflow.sampling.images import contact_sheet, file_name, save_png
    from rectiflow.sampling.load import load

    device, precision = place
    pipeline = load(model, device=device, precision=precision)
    with Progress() as progress:
        images = pipeline.sample(
            texts, on_progress=lambda done, total: progress("drawing", done, total), **changes
        )
    written = []
    for i, image in enumerate(images):
        written.append(folder / file_name(i, str(image.info["prompt"])))
        save_png(image, written[-1])
    if has_sheet:
        columns = changes["num_images_per_prompt"]
        sheet = contact_sheet(images, columns if columns > 1 else None)
        save_png(sheet, folder / "sheet.png", {"prompts": "\n".join(texts)})
        written.append(folder / "sheet.png")
    return written


def read_prompts(path: Path) -> list[str]:
    """Prompts of a text file, one per line; blank lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no prompt or is not UTF-8 text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such prompt file: {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}") from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{path} must hold at least one prompt, one per line")
    return texts


def parse_size(text: str) -> tuple[int, int]:
    """Read "WxH" as (width, height) in pixels."""
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size must be WIDTHxHEIGHT in pixels, as 64x64, got {text!r}")
    return int(width), int(height)
