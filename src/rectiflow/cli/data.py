"""`rectiflow data`: look at training data, encode it once, verify what was encoded."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import Progress, example, say, say_json

MIN_CELL_PX = 192


def register(app: typer.Typer) -> None:
    """Add the verbs of data to the program."""
    group = typer.Typer(help="Look at training data, encode and verify it.", rich_markup_mode=None)
    group.command(epilog=example("rectiflow data preview scenes --num 24 --out sheet.png"))(preview)
    group.command(epilog=example("rectiflow data encode scenes:2000 --out stores/scenes"))(encode)
    group.command(epilog=example("rectiflow data verify stores/scenes"))(verify)
    app.add_typer(group, name="data")


def preview(
    data: Annotated[str, typer.Argument(help='"scenes", or a folder of pictures with captions.')],
    num: Annotated[int, typer.Option(help="Pictures on the sheet.", min=1)] = 24,
    out: Annotated[Path, typer.Option(help="The sheet.")] = Path("preview.png"),
    size_px: Annotated[int, typer.Option(help="Side the pictures are prepared at.", min=8)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    start: Annotated[int, typer.Option(help="First picture.", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Draw samples of a data set with their captions on one sheet."""
    from rectiflow.data.named import named_records

    source = named_records(data, size_px=size_px, seed=seed, num_scenes=start + num)
    records, left_out = _read(source, range(start, min(start + num, len(source))))
    if not records:
        raise ValueError(f"{data} holds no usable picture from number {start} on")
    _write_sheet(records, out)
    facts = [{"id": record.id, "captions": dict(record.captions)} for record, _ in records]
    if as_json:
        say_json({"sheet": out, "records": facts, "left_out": left_out})
        return
    for entry in facts:
        say(f"{entry['id']}  {' | '.join(entry['captions'].values())}")
    for entry in left_out:
        say(f"left out {entry['id']}: {entry['reason']}")
    say(f"{out}")


def encode(
    source: Annotated[
        str,
        typer.Argument(
            help='"scenes", "scenes:N" for N of them, or a folder of pictures with captions.'
        ),
    ],
    out: Annotated[Path, typer.Option(help="The store; its folder appears when it is whole.")],
    size_px: Annotated[int, typer.Option(help="Side the pictures are prepared at.", min=8)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Encode only the I-th of N shares, counted from 1, and wait for nobody.",
        ),
    ] = None,
    records_per_shard: Annotated[
        int, typer.Option(help="Records per pair of files.", min=1)
    ] = 16_384,
    device: options.Device = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="A.B=VALUE",
            help="Change a setting: encoders.source, encoders.autoencoder, encoders.text, "
            "batch_size, num_threads.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Encode pictures and captions once: latents, text states, checksums.

    Give the same command again to go on after an interruption. Several at once, on one machine or
    on many that share the folder, divide the shards among them.
    """
    from rectiflow import config
    from rectiflow.jobs.encoding import run_encoding
    from rectiflow.preparation.prepare import Share
    from rectiflow.training.settings.encoding import EncodingSettings

    share = None if shard is None else Share.parse(shard)
    values = {"size_px": size_px, "seed": seed, "records_per_shard": records_per_shard}
    if device is not None:
        values |= {"device": device}
    chosen = config.override(EncodingSettings, values, settings or [])
    with Progress() as progress:
        result = run_encoding(
            source, out, config.from_dict(EncodingSettings, chosen), share, progress
        )
    if as_json:
        say_json({"store": out, **result})
    else:
        say(f"{out}: {result['message']}")


def verify(
    store: Annotated[str, typer.Argument(help="The folder of a store, or its fsspec URL.")],
    as_json: options.Json = False,
) -> None:
    """Compare every byte of an encoded store with its checksums."""
    from rectiflow.data.verification import verify_store
    from rectiflow.errors import DataError

    with Progress() as progress:
        found = verify_store(
            store,
            lambda done, total: progress("verifying MB", -(-done // 10**6), -(-total // 10**6)),
        )
    files = found.manifest.files
    if as_json:
        damaged = [{"file": name, "problem": what} for name, what in found.damaged.items()]
        counts = {"num_records": found.manifest.num_records, "num_files": len(files)}
        say_json({"store": store, "is_whole": not damaged, **counts, "damaged": damaged})
        if damaged:
            raise typer.Exit(2)
        return
    for name, problem in found.damaged.items():
        say(f"{store}/{name} {problem}")
    if found.damaged:
        raise DataError(f"{len(found.damaged)} of {len(files)} files of {store} are damaged")
    say(f"{store}: {found.manifest.num_records} records in {len(files)} files, all whole")


def _read(source: Any, indices: range) -> tuple[list[tuple[Any, Any]], list[dict[str, str]]]:
    """Records with their pictures, and what was left out with its reason."""
    from rectiflow.data.records import BadRecord

    records, left_out = [], list(source.quarantined)
    for index in indices:
        record = source.record(index)
        try:
            records.append((record, record.load().image))
        except BadRecord as error:
            left_out.append(error.quarantined)
    return records, [{"id": entry.id, "reason": entry.reason} for entry in left_out]


def _write_sheet(records: list[tuple[Any, Any]], out: Path) -> None:
    from PIL import Image

    from rectiflow.sampling.images import contact_sheet, save_png

    images, captions = [], []
    for record, picture in records:
        image = Image.fromarray(picture)
        factor = -(-MIN_CELL_PX // image.width)  # enlarged by whole pixels, so that none is hidden
        images.append(
            image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        )
        captions.append("\n".join(record.captions.values()))
    save_png(contact_sheet(images, captions=captions), out, {})
