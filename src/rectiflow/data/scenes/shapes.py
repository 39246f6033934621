"""The six shapes as point sets, and their soft coverage of a pixel grid.

Every shape lies in the square [-1, 1] x [-1, 1] of its own coordinates, whose unit is the radius,
with y down. Keeping those squares apart therefore keeps the shapes apart.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]

SAMPLES_PER_PIXEL: Final = 4  # along each axis

# Half side, half arm and hole are wide enough that no part of the smallest shape (radius 0.10 of
# a 64 px picture) is thinner than 2.8 px, which an autoencoder of factor 8 must carry through.
SQUARE_HALF_SIDE: Final = 0.88
CROSS_HALF_ARM: Final = 0.34
RING_HOLE: Final = 0.55
STAR_INNER: Final = 0.42
TRIANGLE: Final = ((0.0, -0.92), (1.0, 0.82), (-1.0, 0.82))


def _circle(u: Plane, v: Plane) -> Bool[np.ndarray, "h w"]:
    return u * u + v * v <= 1


def _square(u: Plane, v: Plane) -> Bool[np.ndarray, "h w"]:
    return np.maximum(np.abs(u), np.abs(v)) <= SQUARE_HALF_SIDE


def _triangle(u: Plane, v: Plane) -> Bool[np.ndarray, "h w"]:
    (_, top), (right, base), _ = TRIANGLE
    return (v <= base) & (np.abs(u) * (base - top) <= (v - top) * right)


def _star(u: Plane, v: Plane) -> Bool[np.ndarray, "h w"]:
    # Fold the plane into one of the ten wedges between a tip (angle 0) and a notch (angle 36
    # degrees); there the outline is the straight line from tip to notch.
    wedge = math.pi / 5
    angle = np.arctan2(u, -v)
    folded = np.abs((angle + wedge) % (2 * wedge) - wedge)
    radius = np.hypot(u, v)
    along, across = radius * np.cos(folded), radius * np.sin(folded)
    notch_along, notch_across = STAR_INNER * math.cos(wedge), STAR_INNER * math.sin(wedge)
    return across * (1 - notch_along) <= notch_across * (1 - along)


def _cross(u: Plane, v: Plane) -> Bool[np.ndarray, "h w"]:
    near, far = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (near <= CROSS_HALF_ARM) & (far <= 1)


def _ring(u: Plane, v: Plane) -> Bool[np.ndarray, "h w"]:
    square = u * u + v * v
    return (square <= 1) & (square >= RING_HOLE**2)


_INSIDE: Final[dict[str, Callable[[Plane, Plane], NDArray[np.bool_]]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}
SHAPES: Final[tuple[str, ...]] = tuple(_INSIDE)


def shape_coverage(
    shape: str,
    radius_px: float,
    center_px: tuple[float, float],
    size_px: tuple[int, int],
    angle: float = 0.0,
) -> Float[np.ndarray, "h w"]:
    """Fraction of every pixel that a shape covers, from 4 x 4 samples a pixel.

    Args:
        shape: One of `SHAPES`.
        radius_px: Radius in pixels, > 0.
        center_px: Centre (x, y) in pixels, y down; pixel (i, j) spans [j, j+1] x [i, i+1].
        size_px: Height and width of the grid.
        angle: Clockwise rotation in radians.

    Returns:
        Coverage in [0, 1], float32, shape (height, width).

    Raises:
        ValueError: If the shape is unknown or the radius is not positive.
    """
    if shape not in _INSIDE:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    if not radius_px > 0:
        raise ValueError(f"radius_px must be > 0, got {radius_px}")
    height, width = size_px
    n = SAMPLES_PER_PIXEL
    y = (np.arange(height * n) + 0.5) / n - center_px[1]
    x = (np.arange(width * n) + 0.5) / n - center_px[0]
    v, u = np.meshgrid(y / radius_px, x / radius_px, indexing="ij")
    cos, sin = math.cos(angle), math.sin(angle)
    inside = _INSIDE[shape](u * cos + v * sin, v * cos - u * sin)
    return inside.reshape(height, n, width, n).mean(axis=(1, 3), dtype=np.float32)
