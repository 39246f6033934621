"""Scenes to pixels."""

import math
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8

from rectiflow.data.scenes.glyphs import word_coverage
from rectiflow.data.scenes.palette import BACKGROUND, PALETTE
from rectiflow.data.scenes.scene import Scene, Thing
from rectiflow.data.scenes.shapes import SAMPLES_PER_PIXEL, shape_coverage

MIN_SIZE_PX: Final = 32  # where a radius is 3.6 px


def render(scene: Scene, size_px: int = 64) -> UInt8[np.ndarray, "h w 3"]:
    """Picture of a scene.

    Args:
        scene: What to draw.
        size_px: Side of the square picture; the scene is the same at every size.

    Returns:
        sRGB bytes, shape (size_px, size_px, 3). Pixels on an edge are mixed in proportion to what
        the object covers of them.

    Raises:
        ValueError: If the picture would be too small to show its shapes.
    """
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px must be >= {MIN_SIZE_PX}, got {size_px}")
    canvas = np.empty((size_px, size_px, 3), np.float32)
    canvas[:] = BACKGROUND
    for thing in scene.things:
        _draw_thing(canvas, thing)
    if scene.word is not None:
        word = scene.word
        _blend(canvas, word_coverage(word.text, (word.x, word.y), size_px), word.color)
    return np.rint(canvas).astype(np.uint8)


def _draw_thing(canvas: Float[np.ndarray, "h w 3"], thing: Thing) -> None:
    # Centre and radius are rounded to the sample grid: then equal objects have equal masks but for
    # 4 x 4 positions between pixels, and a mask is computed once, not once an object.
    scale = canvas.shape[0] * SAMPLES_PER_PIXEL
    x, x_phase = divmod(round(thing.x * scale), SAMPLES_PER_PIXEL)
    y, y_phase = divmod(round(thing.y * scale), SAMPLES_PER_PIXEL)
    mask = _mask(thing.shape, round(thing.radius * scale), x_phase, y_phase)
    reach = mask.shape[0] // 2
    top, left = y - reach, x - reach
    # What lies beyond the picture is cut off; a slice must not start below 0.
    mask = mask[max(0, -top) :, max(0, -left) :]
    rows = slice(max(0, top), max(0, y + reach + 1))
    region = canvas[rows, max(0, left) : max(0, x + reach + 1)]
    _blend(region, mask[: region.shape[0], : region.shape[1]], thing.color)


@lru_cache(maxsize=8192)
def _mask(shape: str, radius: int, x_phase: int, y_phase: int) -> Float[np.ndarray, "side side"]:
    """Coverage around the pixel that holds the centre; radius and phases in samples."""
    reach = math.ceil(radius / SAMPLES_PER_PIXEL)
    center = (reach + x_phase / SAMPLES_PER_PIXEL, reach + y_phase / SAMPLES_PER_PIXEL)
    size_px = (2 * reach + 1, 2 * reach + 1)
    mask = shape_coverage(shape, radius / SAMPLES_PER_PIXEL, center, size_px)
    mask.flags.writeable = False  # every object of this kind shares it
    return mask


def _blend(canvas: Float[np.ndarray, "h w 3"], mask: Float[np.ndarray, "h w"], color: str) -> None:
    canvas += mask[:, :, None] * (np.array(PALETTE[color], np.float32) - canvas)
