"""`rectiflow data preview`: look at training data before training on it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rectiflow.cli import options
from rectiflow.cli.console import example, say, say_json

MIN_CELL_PX = 192


def register(app: typer.Typer) -> None:
    """Add the verbs of data to the program."""
    group = typer.Typer(help="Look at training data.", rich_markup_mode=None)
    # A group of one verb would swallow its name; an empty callback keeps `data preview`.
    group.callback()(lambda: None)
    group.command(epilog=example("rectiflow data preview scenes --num 24 --out sheet.png"))(preview)
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
    source = _source(data, size_px, seed, start + num)
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


def _source(data: str, size_px: int, seed: int, num_scenes: int) -> Any:
    from rectiflow.data.folder import FolderRecords
    from rectiflow.data.scene_records import SceneRecords

    if data == "scenes":
        return SceneRecords(seed, num_scenes, size_px)
    return FolderRecords(Path(data), size_px)


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
