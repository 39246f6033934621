"""A sheet of scenes with both of their captions, to look at."""

import math
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from rectiflow.data.scenes.captions import caption
from rectiflow.data.scenes.layout import make_scene
from rectiflow.data.scenes.rendering import render

PICTURE_PX: Final = 192
MARGIN_PX: Final = 12
FONT_PX: Final = 13
LINE_PX: Final = 17
LINES: Final = 6  # index and kind, then each caption on up to two lines, and one to breathe
PAPER: Final = "white"
INK: Final = {"index": (120, 120, 120), "alt": (20, 90, 150), "synthetic": (20, 20, 20)}


def contact_sheet(seed: int, num: int, start: int = 0, columns: int = 6) -> Image.Image:
    """Scenes `start` to `start + num` of a seed: picture, number and kind, alt, synthetic caption.

    Args:
        seed: Seed of the data set.
        num: How many scenes, >= 1.
        start: Index of the first.
        columns: Scenes in a row.

    Raises:
        ValueError: If `num` or `columns` is below 1.
    """
    if num < 1 or columns < 1:
        raise ValueError(f"num and columns must be >= 1, got {num} and {columns}")
    columns = min(columns, num)
    width, height = PICTURE_PX + MARGIN_PX, PICTURE_PX + LINES * LINE_PX + MARGIN_PX
    rows = math.ceil(num / columns)
    sheet = Image.new("RGB", (columns * width + MARGIN_PX, rows * height + MARGIN_PX), PAPER)
    for place in range(num):
        left = MARGIN_PX + place % columns * width
        top = MARGIN_PX + place // columns * height
        _draw_entry(sheet, left, top, seed, start + place)
    return sheet


def _draw_entry(sheet: Image.Image, left: int, top: int, seed: int, index: int) -> None:
    scene = make_scene(seed, index)
    sheet.paste(Image.fromarray(render(scene, PICTURE_PX)), (left, top))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    texts = {"index": f"{index}  {scene.kind}", **caption(scene)._asdict()}
    line = top + PICTURE_PX + 4
    for name, text in texts.items():
        for part in _wrap(text, font):
            draw.text((left, line), part, fill=INK[name], font=font)
            line += LINE_PX


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a text between words so that every line is as wide as a picture at most."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > PICTURE_PX:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
