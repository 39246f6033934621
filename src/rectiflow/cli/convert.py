"""`rectiflow convert`: from one layout of files to another."""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

LAYOUTS = ("diffusers", "stability")
KEEP = "keep"
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    command = "rectiflow convert scenes-tiny exported --to diffusers --dry-run"
    app.command(epilog=example(command))(convert)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A single file, a diffusers folder, a bundle by name or folder, a finished run; "
            "with --download also OWNER/NAME on the hub.",
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DST", help="The new folder, or the new .safetensors file.")
    ],
    to: Annotated[
        str, typer.Option(help="diffusers (a pipeline folder) or stability (one file, ComfyUI's).")
    ],
    dtype: Annotated[
        str, typer.Option(help="Type of the network's weights: fp32, fp16, bf16 or keep.")
    ] = KEEP,
    shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Largest file of a folder's network (default: 5GB)."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="SRC may be fetched from the Hugging Face hub.")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Convert a model between Stability's single file, diffusers' folders and our own runs.

    Weights stay as they are, bit for bit, unless --dtype says otherwise.
    """
    if to not in LAYOUTS:
        raise ValueError(f"--to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    most = parse_bytes(shard_size) if shard_size is not None else None

    from rectiflow.interop.checkpoint import open_checkpoint
    from rectiflow.interop.conversion import DTYPES, plan
    from rectiflow.interop.conversion import convert as write

    if dtype != KEEP and dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)} or {KEEP}, got {dtype!r}")
    opened = open_checkpoint(_find(source, download))
    conversion = plan(opened, to, target, dtype=DTYPES.get(dtype), shard_bytes=most)  # pyright: ignore[reportArgumentType]
    if not dry_run:
        with Progress() as progress:
            write(conversion, lambda done, total: progress("writing", done, total))
    facts = conversion.facts()
    say_json(facts) if as_json else say(_as_text(facts, dry_run))


def parse_bytes(text: str) -> int:
    """Read a size such as "5GB", "500MB" or "100000", in powers of ten as on the hub."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]B|)", text.strip().upper())
    size = int(Decimal(found[1]) * UNITS[found[2]]) if found else 0
    if size < 1:
        raise ValueError(f"--shard-size must be a size such as 5GB or 500MB, got {text!r}")
    return size


def _find(source: str, download: bool) -> Path:
    from rectiflow.interop.hub import locate
    from rectiflow.sampling.bundle import packaged_bundles, packaged_names

    if source in packaged_names() and not Path(source).exists():
        return packaged_bundles() / source
    return locate(source, download=download)


def _as_text(facts: Mapping[str, Any], is_plan: bool) -> str:
    network = facts["network"]
    width = network["head_width"] * (network["num_heads"] or network["depth"])
    shape = f"depth {network['depth']}, width {width}"
    lines = [
        f"{facts['source']}  {facts['layout']} layout, {facts['release'] or 'MM-DiT'}, {shape}",
        f"{'would become' if is_plan else 'became'} {facts['target']}  {facts['to']} layout, "
        f"{facts['tensors']} tensors, {facts['bytes'] / 1e6:.1f} MB in {len(facts['files'])} "
        f"file{'s' if len(facts['files']) > 1 else ''}",
    ]
    for title, names in (("with", facts["parts"]), ("left out", facts["left_out"])):
        lines += [f"{title}: {', '.join(names)}"] if names else []
    return "\n".join(lines + ([f"licence: {facts['license']}"] if facts["license"] else []))
