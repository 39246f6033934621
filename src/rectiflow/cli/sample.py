"""`rectiflow sample`: draw pictures for prompts."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

if TYPE_CHECKING:
    from PIL import Image

    from rectiflow.sampling.pipeline import Pipeline
    from rectiflow.sampling.released import ReleasedModel
    from rectiflow.sampling.sources import Source

Prompt = Annotated[list[str] | None, typer.Argument(help="One or more prompts.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file of prompts, one per line.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the pictures (default: RUN/samples or samples).")
]
Num = Annotated[int, typer.Option(help="Pictures per prompt.")]
Seed = Annotated[int, typer.Option(help="Picture i is a function of (seed, i).")]
Negative = Annotated[str, typer.Option(help="What to steer away from.")]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH", help="Pixels, 512 for 512x512 (default: as trained, or as --image)."
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(
        help="euler, midpoint, heun, rk4, dpmpp-2m, dpmpp-2m-snr, unipc-2, unipc-3, "
        "dopri5 (adaptive) or sde (stochastic)."
    ),
]
Tolerance = Annotated[float | None, typer.Option(help="Error that dopri5 may make.")]
Method = Annotated[
    str | None, typer.Option("--guidance-method", help="cfg, cfg-zero (CFG-Zero*) or apg.")
]
GuidanceStart = Annotated[
    float | None, typer.Option(help="Time t, 0 = data, above which guidance acts.")
]
GuidanceEnd = Annotated[float | None, typer.Option(help="Time t until which it acts, 1 = noise.")]
ZeroInit = Annotated[
    int | None, typer.Option(help="cfg-zero: first steps that stand still (default: 1).")
]
ApgEta = Annotated[float | None, typer.Option(help="apg: factor on the parallel part.")]
ApgNorm = Annotated[float | None, typer.Option(help="apg: bound of the norm; 0 is none.")]
ApgMomentum = Annotated[float | None, typer.Option(help="apg: share of the steps before.")]
GuideFrom = Annotated[
    str | None,
    typer.Option(
        "--guide",
        metavar="MODEL",
        help="Lead away from a weaker model (autoguidance): a run, a bundle, or safetensors.",
    ),
]
Shift = Annotated[float | None, typer.Option(help="Move the time grid towards noise; 1 is off.")]
Grid = Annotated[
    str | None,
    typer.Option(help="uniform; sd3: shifted twice, as released models expect; karras: EDM's."),
]
SkipLayers = Annotated[
    str | None,
    typer.Option(metavar="I,J,..", help="Blocks that skip-layer guidance leaves out, or none."),
]
SkipScale = Annotated[float | None, typer.Option(help="Strength of skip-layer guidance.")]
SkipStart = Annotated[float | None, typer.Option(help="Share of the steps after which it acts.")]
SkipEnd = Annotated[float | None, typer.Option(help="Share of the steps before which it acts.")]
Start = Annotated[Path | None, typer.Option("--image", help="A picture to start from.")]
Mask = Annotated[
    Path | None, typer.Option(help="A picture, white where --image is drawn anew, else black.")
]
Strength = Annotated[
    float | None,
    typer.Option(help="Share of the steps run from --image (default: 0.6, or 1 with --mask)."),
]
Without = Annotated[
    list[str] | None, typer.Option(help="Leave out a text encoder: clip_l, clip_g or t5.")
]
TextEncoders = Annotated[
    Path | None,
    typer.Option(help="Folder of --model's text encoders: ComfyUI's files or diffusers' folders."),
]
Tokenizers = Annotated[Path | None, typer.Option(help="Folder of --model's tokenizers.")]
T5Tokens = Annotated[
    int | None, typer.Option("--t5-tokens", help="Length of --model's T5 part (default: 256).")
]
MissingT5 = Annotated[
    str | None,
    typer.Option(
        "--missing-t5",
        metavar="NAME",
        help="What stands for T5 where it is left out: zeros (as diffusers does, the default), "
        "none (ComfyUI), zeros-77 (OneTrainer) or zeros-256 (kohya).",
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch what --model lacks from the Hugging Face hub.")
]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also write all pictures on one sheet.png.")]

DRAWING = (
    *("num", "seed", "steps", "guidance", "negative", "size", "solver", "shift", "grid"),
    *("guidance_method", "guidance_start", "guidance_end", "zero_init_steps", "tolerance"),
    *("apg_eta", "apg_norm", "apg_momentum"),
    *("skip_layers", "skip_scale", "skip_start", "skip_end", "strength", "without"),
)
"""Options that are fields of `SamplingOptions`."""
OF_RELEASED = ("text_encoders", "tokenizers", "t5_tokens", "missing_t5", "download")
"""Options that are fields of `ReleasedSettings`."""
FIELDS = {"num": "num_images_per_prompt", "steps": "num_steps", "guidance": "guidance_scale"}
"""Those whose field has another name."""
NAMES = {"solver", "guidance_method"}
"""Those whose value is a name, written with dashes or underscores."""


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
    model: options.Model = None,
    text_encoders: TextEncoders = None,
    tokenizers: Tokenizers = None,
    t5_tokens: T5Tokens = None,
    missing_t5: MissingT5 = None,
    download: Download = False,
    prompts: Prompts = None,
    out: Out = None,
    num: Num = 1,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guidance_method: Method = None,
    guidance_start: GuidanceStart = None,
    guidance_end: GuidanceEnd = None,
    zero_init_steps: ZeroInit = None,
    apg_eta: ApgEta = None,
    apg_norm: ApgNorm = None,
    apg_momentum: ApgMomentum = None,
    guide: GuideFrom = None,
    seed: Seed = 0,
    negative: Negative = "",
    size: Size = None,
    solver: Solver = None,
    tolerance: Tolerance = None,
    shift: Shift = None,
    grid: Grid = None,
    skip_layers: SkipLayers = None,
    skip_scale: SkipScale = None,
    skip_start: SkipStart = None,
    skip_end: SkipEnd = None,
    image: Start = None,
    mask: Mask = None,
    strength: Strength = None,
    without: Without = None,
    device: options.Device = None,
    precision: options.Precision = "auto",
    sheet: Sheet = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Draw pictures for prompts with a trained model."""
    written = _sample(dict(locals()))
    if as_json and not dry_run:
        say_json([str(path) for path in written])
    elif written:
        say("\n".join(str(path) for path in written))


def _sample(asked: Mapping[str, Any]) -> list[Path]:
    """Draw, or print the plan of a dry run; every mistake is told before weights are read."""
    from rectiflow.devices import resolve_device, resolve_precision
    from rectiflow.sampling.guides import find_guide, load_guide
    from rectiflow.sampling.load import load
    from rectiflow.sampling.options import with_changes
    from rectiflow.sampling.sources import resolve_source

    prompts = asked["prompts"]
    texts = [*(asked["prompt"] or []), *(read_prompts(prompts) if prompts else [])]
    if not texts:
        raise ValueError("sample needs a prompt, or --prompts FILE with one per line")
    changes = _changes(asked)
    begin = _begin(asked["image"], asked["mask"], changes)
    where = resolve_device(asked["device"] or "auto")
    place = {"device": str(where), "precision": resolve_precision(asked["precision"], where)}
    chosen = {name: asked[name] for name in ("run", "bundle", "model", "download")}
    source = resolve_source(**chosen)
    released = _released(source, asked, changes)
    guide = None if asked["guide"] is None else find_guide(asked["guide"])
    inner = source.folder / "samples" if source.kind == "run" else Path("samples")
    folder = asked["out"] or inner
    if asked["dry_run"]:
        begun = {name: asked[name] for name in ("image", "mask") if asked["image"]}
        plan = {"model": source.folder, **place, "prompts": texts, "out": folder}
        plan |= {"guide": guide.path} if guide else {}
        facts = {"options": changes}
        if released:
            facts = {**released.facts(), "options": asdict(with_changes(released.options, changes))}
        say_json({**plan, **begun, **facts})
        return []
    pipeline = released.load(**place) if released else load(source.folder, **place)
    if guide is not None:
        pipeline.guide = load_guide(guide, pipeline)
    return _draw(pipeline, texts, {**changes, **begin}, folder, asked["sheet"])


def _released(
    source: "Source", asked: Mapping[str, Any], changes: Mapping[str, Any]
) -> "ReleasedModel | None":
    """The parts of a released model; None for a run or a bundle, which has no use for `asked`."""
    given = {k: asked[k] for k in OF_RELEASED if asked[k] is not None and asked[k] is not False}
    if source.kind != "model":
        if given:
            told = ", ".join("--" + name.replace("_", "-") for name in given)
            verb = "is" if len(given) == 1 else "are"
            raise ValueError(f"{told} {verb} for released models: give --model")
        return None
    from rectiflow.sampling.released import ReleasedSettings, find_released

    settings = ReleasedSettings(**given, without=changes.get("without", ()))
    return find_released(source.folder, settings)


def _changes(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling options among what was asked; a mistake is told before a model is looked for."""
    from rectiflow.sampling.options import SamplingOptions

    given = {name: asked[name] for name in DRAWING if asked[name] is not None}
    for name, read in (("size", parse_size), ("skip_layers", parse_layers), ("without", tuple)):
        if name in given:
            given[name] = read(given[name])
    for name in NAMES & given.keys():
        given[name] = given[name].replace("-", "_")
    changes = {FIELDS.get(name, name): value for name, value in given.items()}
    SamplingOptions(**changes)
    return changes


def _draw(
    pipeline: "Pipeline", texts: list[str], changes: dict[str, Any], folder: Path, has_sheet: bool
) -> list[Path]:
    from rectiflow.sampling.images import contact_sheet, file_name, save_png

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


def _begin(
    image: Path | None, mask: Path | None, changes: Mapping[str, Any]
) -> "dict[str, Image.Image]":
    """The pictures to start from, by the names that `sample` gives them; mistakes are told here."""
    from rectiflow.data.pictures import load_picture
    from rectiflow.sampling.editing import original_picture

    if image is None and changes.get("strength") is not None:
        raise ValueError("--strength needs --image, a picture to start from")
    given = {name: file for name, file in (("image", image), ("mask", mask)) if file is not None}
    pictures = {name: load_picture(file, f"--{name} {file}") for name, file in given.items()}
    original_picture(pictures.get("image"), pictures.get("mask"), changes.get("size"))
    return pictures


def parse_layers(text: str) -> tuple[int, ...]:
    """Read "7,8,9" as blocks, and "none" as no block."""
    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"--skip-layers must be numbers of blocks as 7,8,9, or none, got {text!r}")
    return tuple(map(int, parts))


def parse_size(text: str) -> tuple[int, int]:
    """Read "WxH" as (width, height) in pixels, and one number as a square."""
    width, separator, height = text.lower().partition("x")
    height = height if separator else width
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size must be WIDTHxHEIGHT in pixels, as 64x64, got {text!r}")
    return int(width), int(height)
