"""GenEval's files: its folder of prompts and pictures, and lines of JSON."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rectiflow.errors import DataError
from rectiflow.evaluation.geneval import Metadata
from rectiflow.runs import write_bytes
from rectiflow.sampling.images import save_png

SETTINGS = "suite.json"  # what decides the pictures that an evaluation draws into a folder
RESULTS = "results.jsonl"
MAX_PICTURE_PX = 1 << 24  # bound before decoding: a picture of a stranger's folder may be a bomb


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSONL file, one object a line; it appears whole or not at all."""
    write_bytes(file, "".join(json.dumps(dict(row)) + "\n" for row in rows).encode())


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read a JSONL file of results or prompts; blank lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is not UTF-8, or a line is no JSON object; names file and line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} must be UTF-8 text: {error}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: expected an object, got {line[:40]!r}")
        rows.append(row)
    return rows


def picture_name(index: int, sample: int) -> str:
    """Path of a prompt's picture within the folder: `00000/samples/0000.png`."""
    return f"{index:05d}/samples/{sample:04d}.png"


def metadata_file(picture: Path) -> Path:
    """Where the prompt of a picture stands."""
    return picture.parent.parent / "metadata.jsonl"


def write_picture(
    folder: Path,
    index: int,
    sample: int,
    metadata: Metadata,
    picture: UInt8[np.ndarray, "h w 3"],
    facts: Mapping[str, object],
) -> Path:
    """Write `metadata.jsonl` with a prompt's one line, then one picture, so that none lacks it.

    Args:
        folder: Of the whole suite.
        index: Number of the prompt.
        sample: Number of the picture.
        metadata: Of the prompt.
        picture: sRGB bytes.
        facts: Kept in the PNG as text.
    """
    file = folder / picture_name(index, sample)
    write_lines(metadata_file(file), [metadata])
    save_png(Image.fromarray(picture), file, facts)
    return file


def read_folder(folder: Path) -> list[tuple[dict[str, Any], list[Path]]]:
    """Prompts and picture files of a folder in GenEval's layout, in the folders' order.

    As in GenEval, any all-digit folder and any all-digit `.png` count, whatever their width.

    Raises:
        FileNotFoundError: If there is no such folder, or no prompt folder in it.
        DataError: If a prompt folder lacks its metadata or pictures, or an evaluation that draws
            into the folder has not come to its end.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of pictures at {folder}")
    if (folder / SETTINGS).is_file() and not (folder / RESULTS).is_file():
        raise DataError(f"{folder} lacks pictures: its evaluation has not ended; repeat it first")
    places = sorted((p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()), key=_number)
    if not places:
        raise FileNotFoundError(f"{folder} holds no prompt folders named 00000, 00001, ...")
    found = []
    for place in places:
        file = place / "metadata.jsonl"
        if not file.is_file():
            raise DataError(f"{place} has no metadata.jsonl")
        rows = read_lines(file)
        if len(rows) != 1 or not {"tag", "prompt"} <= rows[0].keys():
            raise DataError(f"{file}: expected one line with tag and prompt, got {len(rows)} lines")
        pictures = sorted(
            (p for p in (place / "samples").glob("*.png") if p.stem.isdigit()), key=_number
        )
        if not pictures:
            raise DataError(f"{place}/samples holds no pictures named 0000.png, 0001.png, ...")
        found.append((rows[0], pictures))
    return found


def _number(path: Path) -> int:
    return int(path.stem)


def read_facts(file: Path) -> dict[str, str]:
    """What a PNG tells in the text before its picture.

    Raises:
        DataError: If it is no picture.
    """
    try:
        with Image.open(file) as picture:
            return {str(name): str(value) for name, value in picture.info.items()}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable picture ({error})") from error


def read_picture(file: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture as (h, w, 3) bytes.

    Raises:
        DataError: If it is no picture or too large to decode safely.
    """
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_PICTURE_PX:
                raise DataError(f"{file}: {picture.width}x{picture.height} px is too large")
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: not a readable picture ({error})") from error
