"""Pictures on disk: PNG files that know how they were made, and contact sheets."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

SHEET_BACKGROUND = (255, 255, 255)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        image.save(partial, format="PNG", pnginfo=text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_name(index: int, prompt: str) -> str:
    """A name that sorts by index and tells the prompt: `0003_two-red-circles.png`."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:NAME_LENGTH].rstrip("-")
    return f"{index:04d}_{words or 'empty'}.png"


def contact_sheet(
    images: Sequence[Image.Image], columns: int | None = None, gap_px: int = 4
) -> Image.Image:
    """All pictures on one, row by row, each cell as large as the largest picture.

    Args:
        images: At least one picture.
        columns: Pictures per row; by default the nearest to a square.
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
    width = max(image.width for image in images) + gap_px
    height = max(image.height for image in images) + gap_px
    sheet = Image.new("RGB", (columns * width + gap_px, rows * height + gap_px), SHEET_BACKGROUND)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        sheet.paste(image.convert("RGB"), (gap_px + column * width, gap_px + row * height))
    return sheet
