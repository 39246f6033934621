"""Scenes to pixels."""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from rectiflow.data.scenes.glyphs import word_coverage
from rectiflow.data.scenes.palette import BACKGROUND, PALETTE
from rectiflow.data.scenes.scene import Scene, Thing
from rectiflow.data.scenes.shapes import SAMPLES_PER_PIXEL, shape_coverage


def render(scene: Scene, size_px: int = 64) -> UInt8[np.ndarray, "h w 3"]:
    """Picture of a scene.

    Args:
        scene: What to draw.
        size_px: Side of the square picture; the scene is the same at every size.

    Returns:
        sRGB bytes, shape (size_px, size_px, 3). Pixels on an edge are mixed in proportion to what
        the object covers of them.
    """
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
    left, top, mask = _mask(
        thing.shape, round(thing.radius * scale), round(thing.x * scale) % SAMPLES_PER_PIXEL,
        round(thing.y * scale) % SAMPLES_PER_PIXEL,
    )
    left += round(thing.x * scale) // SAMPLES_PER_PIXEL
    top += round(thing.y * scale) // SAMPLES_PER_PIXEL
    _blend(canvas[top : top + mask.shape[0], left : left + mask.shape[1]], mask, thing.color)


@lru_cache(maxsize=8192)
def _mask(
    shape: str, radius: int, x_phase: int, y_phase: int
) -> tuple[int, int, Float[np.ndarray, "h w"]]:
    """Coverage around the pixel that holds the centre; lengths in samples. Also its left, top."""
    reach = math.ceil(radius / SAMPLES_PER_PIXEL)
    side = 2 * reach + 1
    center = (reach + x_phase / SAMPLES_PER_PIXEL, reach + y_phase / SAMPLES_PER_PIXEL)
    mask = shape_coverage(shape, radius / SAMPLES_PER_PIXEL, center, (side, side))
    return -reach, -reach, mask


def _blend(canvas: Float[np.ndarray, "h w 3"], mask: Float[np.ndarray, "h w"], color: str) -> None:
    canvas += mask[:, :, None] * (np.array(PALETTE[color], np.float32) - canvas)
