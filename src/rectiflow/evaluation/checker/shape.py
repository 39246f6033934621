"""Which shape a piece has: correlation with blurred, slightly rotated and squeezed templates.

Pieces and templates are brought to one frame first: centre of mass in the middle, root mean square
distance from it as the unit. Both are sums over soft coverage, so they are exact below a pixel.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import ndimage

from rectiflow.data.scenes import SHAPES, shape_coverage
from rectiflow.evaluation.checker.segment import Piece

GRID: Final = 26  # samples along each axis of the frame
REACH: Final = 2.5  # from the middle to the frame's edge, in units
BLURS: Final = (0.0, 0.08, 0.16, 0.24, 0.32)  # Gaussian sigma in parts of the radius
ANGLES: Final = (-8.0, 0.0, 8.0)  # degrees
SQUEEZES: Final = (0.88, 1.0, 1.136)  # width over height
DRAWN_RADIUS_PX: Final = 18.0
DRAWN_SIDE_PX: Final = 76
FLOOR: Final = 0.10  # coverage below this is noise, not the tail of an edge


@dataclass(frozen=True)
class Match:
    """The best templates for one piece.

    Args:
        shape: The best shape.
        score: Its normalised correlation, at most 1.
        margin: Its lead over the best other shape.
        radius_px: Radius that the shape has if this is right.
    """

    shape: str
    score: float
    margin: float
    radius_px: float


@dataclass(frozen=True)
class Bank:
    """All templates, zero mean and unit norm.

    Args:
        rows: One template a row.
        shape: Index into `SHAPES`, for every row.
        radius: Radius in units of the frame, for every row.
    """

    rows: Float[np.ndarray, "templates samples"]
    shape: Int[np.ndarray, " templates"]
    radius: Float[np.ndarray, " templates"]


def match(pieces: list[Piece]) -> list[Match]:
    """The best shape for every piece, all of them in one matrix product."""
    if not pieces:
        return []
    bank = templates()
    framed = [_framed(piece.coverage) for piece in pieces]
    scores = np.stack([row for row, _ in framed]) @ bank.rows.T
    best_of_shape = np.stack([scores[:, bank.shape == i].max(1) for i in range(len(SHAPES))], 1)
    matches = []
    for row, ranked, (_, unit_px) in zip(scores, np.sort(best_of_shape, 1), framed, strict=True):
        best = int(row.argmax())
        shape, radius = SHAPES[bank.shape[best]], float(bank.radius[best]) * unit_px
        matches.append(Match(shape, float(row[best]), float(ranked[-1] - ranked[-2]), radius))
    return matches


@lru_cache(maxsize=1)
def templates() -> Bank:
    """The bank of templates; built once, from the renderer's own shapes."""
    rows, shapes, radii = [], [], []
    side = (DRAWN_SIDE_PX, DRAWN_SIDE_PX)
    middle = (DRAWN_SIDE_PX / 2, DRAWN_SIDE_PX / 2)
    for (index, name), angle in itertools.product(enumerate(SHAPES), ANGLES):
        if name in ("circle", "ring") and angle:
            continue
        drawn = shape_coverage(name, DRAWN_RADIUS_PX, middle, side, math.radians(angle))
        for blur in BLURS:
            soft = ndimage.gaussian_filter(drawn, blur * DRAWN_RADIUS_PX)
            for squeeze in SQUEEZES:
                row, unit_px = _framed(soft, squeeze)
                rows.append(row)
                shapes.append(index)
                radii.append(DRAWN_RADIUS_PX / unit_px)
    return Bank(np.stack(rows), np.array(shapes), np.array(radii, np.float32))


def center_of(coverage: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Centre of mass (x, y) of a soft mask, in pixels from its corner."""
    weight = np.where(coverage > FLOOR * coverage.max(), coverage, 0)
    total = float(weight.sum())
    x = float(weight.sum(0) @ (np.arange(weight.shape[1]) + 0.5)) / total
    y = float(weight.sum(1) @ (np.arange(weight.shape[0]) + 0.5)) / total
    return x, y


def _framed(
    coverage: Float[np.ndarray, "h w"], squeeze: float = 1.0
) -> tuple[NDArray[np.float32], float]:
    """A soft mask in the common frame, zero mean and unit norm, and the frame's unit in pixels."""
    weight = np.where(coverage > FLOOR * coverage.max(), coverage, 0)
    x, y = center_of(coverage)
    dx2 = (np.arange(weight.shape[1]) + 0.5 - x) ** 2
    dy2 = (np.arange(weight.shape[0]) + 0.5 - y) ** 2
    # Squeezing a template stretches its frame instead: the same samples, one resampling less.
    wide, high = math.sqrt(squeeze), 1 / math.sqrt(squeeze)
    spread = weight.sum(0) @ dx2 * wide**2 + weight.sum(1) @ dy2 * high**2
    unit_px = math.sqrt(float(spread / weight.sum()))
    at = np.linspace(-REACH, REACH, GRID) * unit_px
    rows = np.repeat(at / high + y - 0.5, GRID)
    columns = np.tile(at / wide + x - 0.5, GRID)
    sampled = ndimage.map_coordinates(weight, [rows, columns], order=1, output=np.float32)
    sampled -= sampled.mean()
    # A sliver a pixel wide lies between the samples: it is like nothing, and must not divide by 0.
    return sampled / max(float(np.linalg.norm(sampled)), 1e-6), unit_px
