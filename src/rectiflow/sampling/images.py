"""Pictures on disk: PNG files that know how they were made, and contact sheets."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from rectiflow.runs import replacing

PAPER, INK = (255, 255, 255), (0, 0, 0)
FONT_PX = 12
NAME_LENGTH = 60


def to_bytes(images: Float[Tensor, "batch 3 height width"]) -> UInt8[np.ndarray, "batch h w 3"]:
    """Pictures in [-1, 1] as bytes, channels last; values outside are clamped, then rounded."""
    scaled = (images.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def save_png(image: Image.Image, path: Path, facts: Mapping[str, object] | None = None) -> None:
    """Write a PNG whose text chunks are `facts`, or the picture's own `info` if none are given.

    The file appears whole or not at all.
    """
    text = PngInfo()
    for name, value in (image.info if facts is None else facts).items():
        text.add_itxt(str(name), str(value))
    with replacing(path) as partial:
        image.save(partial, format="PNG", pnginfo=text)


def file_name(index: int, prompt: str) -> str:
    """A name that sorts by index and tells the prompt: `0003_two-red-circles.png`."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:NAME_LENGTH].rstrip("-")
    return f"{index:04d}_{words or 'empty'}.png"


def contact_sheet(
    images: Sequence[Image.Image],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    gap_px: int = 4,
) -> Image.Image:
    """All pictures on one, row by row, each cell as large as the largest picture.

    Args:
        images: At least one picture.
        columns: Pictures per row; by default the nearest to a square.
        captions: Text under each picture, broken to its width.
        gap_px: White space between and around the pictures.

    Raises:
        ValueError: If there is no picture or no column.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one picture, got none")
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be >= 1, got {columns}")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell, picture_px = max(image.width for image in images), max(image.height for image in images)
    texts = ["\n".join(_lines(text, cell)) for text in captions or [""] * len(images)]
    text_px = max(_text_height(text) for text in texts)
    width, height = cell + gap_px, picture_px + text_px + gap_px
    sheet = Image.new("RGB", (columns * width + gap_px, rows * height + gap_px), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = gap_px + i % columns * width, gap_px + i // columns * height
        sheet.paste(image.convert("RGB"), (left, top))
        draw.multiline_text((left, top + picture_px + 1), text, INK, _font())
    return sheet


def sheet_pictures(
    sheet: Image.Image, num: int, columns: int | None = None, gap_px: int = 4
) -> list[Image.Image]:
    """The pictures of a `contact_sheet` of `num` square ones, without their captions."""
    side, _, corners = _cells(sheet, num, columns, gap_px)
    return [sheet.crop((x, y, x + side, y + side)) for x, y in corners]


def sheet_captions(
    sheet: Image.Image, num: int, columns: int | None = None, gap_px: int = 4
) -> list[Image.Image]:
    """What stands below the pictures of a `contact_sheet` of `num` square ones, as pictures."""
    side, height, corners = _cells(sheet, num, columns, gap_px)
    return [sheet.crop((x, y + side, x + side, y + height - gap_px)) for x, y in corners]


def _cells(
    sheet: Image.Image, num: int, columns: int | None, gap_px: int
) -> tuple[int, int, list[tuple[int, int]]]:
    """Side of a picture, height of a row with its gap, upper left corners.

    Raises:
        ValueError: If so many pictures do not fit on the sheet.
    """
    columns = min(columns or math.ceil(math.sqrt(num)), num)
    width = (sheet.width - gap_px) // columns
    height = (sheet.height - gap_px) // math.ceil(num / columns)
    if width <= gap_px or height < width:
        raise ValueError(
            f"a sheet of {num} pictures must have room for them, got {sheet.width}x{sheet.height}"
        )
    corners = [(gap_px + i % columns * width, gap_px + i // columns * height) for i in range(num)]
    return width - gap_px, height, corners


@cache
def _font() -> Any:
    return ImageFont.load_default(FONT_PX)


def _lines(text: str, width_px: int) -> Iterator[str]:
    """Break a text at spaces so that its lines fit; a longer word keeps a line of its own."""
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _font().getlength(longer) > width_px:
                yield line
                longer = word
            line = longer
        yield line


def _text_height(text: str) -> int:
    if not text:
        return 0
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, _font())
    return math.ceil(box[3]) + 4
