"""`rectiflow sample`: draw pictures for prompts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli.console import Progress, example, say, say_json

RunOption = Annotated[Path | None, typer.Option(help="A run folder: its newest checkpoint.")]
BundleOption = Annotated[
    str | None,
    typer.Option(help="A packaged bundle by name, or a bundle's folder (default: scenes-tiny)."),
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or mps (default: the best there is).")
]
PrecisionOption = Annotated[str, typer.Option(help="auto (bf16 on CUDA, else fp32), fp32 or bf16.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command(
        epilog=example(
            'rectiflow sample "two red circles" "a blue star left of a green square" --out pictures'
        )
    )(sample)


def sample(
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts.")] = None,
    run: RunOption = None,
    bundle: BundleOption = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A text file of prompts, one per line.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pictures (default: RUN/samples or samples).")
    ] = None,
    num: Annotated[int, typer.Option(help="Pictures per prompt.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Steps of the solver.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance; 1 is off.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Picture i is a function of (seed, i).")] = 0,
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Pixels (default: as trained).")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="euler, midpoint or heun.")] = None,
    shift: Annotated[
        float | None, typer.Option(help="Move the time grid towards noise; 1 is off.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Leave out a text encoder: clip_l, clip_g or t5.")
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "auto",
    sheet: Annotated[
        bool, typer.Option("--sheet", help="Also write all pictures on one sheet.png.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be drawn, draw nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Draw pictures for prompts with a trained model."""
    from rectiflow.sampling.devices import best_device
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
    options = {name: value for name, value in given.items() if value is not None}
    SamplingOptions(**options)  # a mistake is told before the model is looked for
    source = resolve_source(run=run, bundle=bundle)
    folder = out or (source.folder / "samples" if source.kind == "run" else Path("samples"))
    device = device or best_device()
    if dry_run:
        plan = {"model": source.folder, "device": device, "prompts": texts, "out": folder}
        say_json({**plan, "options": options})
        return
    written = _draw(source.folder, texts, options, folder, (device, precision), sheet)
    if as_json:
        say_json([str(path) for path in written])
    else:
        say("\n".join(str(path) for path in written))


def _draw(
    model: Path,
    texts: list[str],
    options: dict[str, Any],
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
            texts, on_progress=lambda done, total: progress("drawing", done, total), **options
        )
    written = []
    for i, image in enumerate(images):
        written.append(folder / file_name(i, str(image.info["prompt"])))
        save_png(image, written[-1])
    if has_sheet:
        columns = options["num_images_per_prompt"]
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
