"""One piece, several objects: shapes of one colour that touch or overlap a little.

Analysis by synthesis. Shapes of all kinds and sizes are moved over the piece; the one that
explains most of it is taken, then the next, and all are fitted again with the others held. The
smallest number of shapes that explains the piece well is the answer.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from scipy import fft, ndimage

from rectiflow.data.scenes import SHAPES, shape_coverage
from rectiflow.evaluation.checker.segment import Piece
from rectiflow.evaluation.checker.thresholds import Thresholds

WORKING_SIDE_PX: Final = 64  # larger pictures are reduced to about this before fitting
RADII: Final = (0.085, 0.098, 0.112, 0.127, 0.142, 0.158)  # of the side
MOST: Final = 5
EDGE_GAIN: Final = 2.5  # makes edges steep about half coverage, where blur leaves them in place
WINDOW_STEP_PX: Final = 12  # windows come in few sizes, so that stamps are made once each

Mask = NDArray[np.float32]
Place = tuple[int, int, int]  # which stamp, row, column of its centre's pixel


@dataclass(frozen=True)
class Part:
    """One of the shapes that make up a piece; centre and radius in pixels of the picture."""

    shape: str
    x: float
    y: float
    radius_px: float


@dataclass(frozen=True)
class Stamps:
    """Every shape at every radius, drawn in the middle of one square window.

    Args:
        kinds: Shape and radius in pixels, of every stamp.
        masks: Their soft masks.
        spectra: Conjugate transforms of the masks moved to the origin.
    """

    kinds: tuple[tuple[str, float], ...]
    masks: Float[np.ndarray, "stamps n n"]
    spectra: Complex[np.ndarray, "stamps n half"]


def split(piece: Piece, side: int, thresholds: Thresholds) -> tuple[list[Part], float]:
    """The shapes that a piece consists of, and the part of its area that they fail to explain.

    Returns:
        At least two shapes, or none if one explains the piece or several do not.
    """
    factor = max(1, side // WORKING_SIDE_PX)
    stamps_side = side / factor
    small = _reduced(piece.coverage, factor)
    pad = math.ceil(max(RADII) * stamps_side) + 1
    num = WINDOW_STEP_PX * math.ceil((max(small.shape) + 2 * pad) / WINDOW_STEP_PX)
    target = np.zeros((num, num), np.float32)
    target[pad : pad + small.shape[0], pad : pad + small.shape[1]] = _steep(small)
    stamps = _stamps(num, stamps_side)
    places, residual = _explain(target, stamps, thresholds)
    parts = []
    for stamp, row, column in places:
        shape, radius = stamps.kinds[stamp]
        x = piece.left + (column + 0.5 - pad) * factor
        y = piece.top + (row + 0.5 - pad) * factor
        parts.append(Part(shape, x, y, radius * factor))
    return parts, residual


def _explain(target: Mask, stamps: Stamps, thresholds: Thresholds) -> tuple[list[Place], float]:
    area = float(target.sum())
    places: list[Place] = []
    before = 1.0
    for num in range(1, MOST + 1):
        best, gain = _best(target, _union(places, stamps), stamps)
        if gain < thresholds.split_least * float(stamps.masks[best[0]].sum()):
            return [], before
        places.append(best)
        for held in range(num if num > 1 else 0):
            others = places[:held] + places[held + 1 :]
            places[held], _ = _best(target, _union(others, stamps), stamps)
        residual = float(np.abs(_union(places, stamps) - target).sum()) / area
        if residual <= thresholds.split_residual:
            is_several = num > 1 and _are_apart(places, stamps, thresholds.split_apart)
            return (places if is_several else []), residual
        before = residual
    return [], before


def _are_apart(places: list[Place], stamps: Stamps, least: float) -> bool:
    """Whether no two shapes lie over each other, as those that emulate one odd shape do."""
    for (a, y1, x1), (b, y2, x2) in itertools.combinations(places, 2):
        reach = stamps.kinds[a][1] + stamps.kinds[b][1]
        if math.hypot(y1 - y2, x1 - x2) < least * reach:
            return False
    return True


def _best(target: Mask, taken: Mask, stamps: Stamps) -> tuple[Place, float]:
    """The stamp and place that add most agreement, in pixels, to what is already taken."""
    agreement = (2 * target - 1) * (1 - taken)
    spectrum = fft.rfft2(agreement)
    gains = fft.irfft2(spectrum * stamps.spectra, s=target.shape)
    stamp, row, column = np.unravel_index(int(gains.argmax()), gains.shape)
    place = (int(stamp), int(row), int(column))
    return place, float(gains[place])


def _union(places: list[Place], stamps: Stamps) -> Mask:
    total = np.zeros(stamps.masks.shape[1:], np.float32)
    middle = total.shape[0] // 2
    for stamp, row, column in places:
        moved = np.roll(stamps.masks[stamp], (row - middle, column - middle), (0, 1))
        np.maximum(total, moved, out=total)
    return total


def _steep(coverage: Mask) -> Mask:
    top = np.percentile(coverage[coverage > 0.3 * coverage.max()], 75)
    return np.clip((coverage / top - 0.5) * EDGE_GAIN + 0.5, 0, 1).astype(np.float32)


def _reduced(coverage: Mask, factor: int) -> Mask:
    """Means over squares of `factor` pixels; the last squares are filled with zeros."""
    if factor == 1:
        return coverage
    height, width = (-(-n // factor) for n in coverage.shape)
    fill = [(0, height * factor - coverage.shape[0]), (0, width * factor - coverage.shape[1])]
    padded = np.pad(coverage, fill)
    return padded.reshape(height, factor, width, factor).mean((1, 3))


@lru_cache(maxsize=16)
def _stamps(num: int, side: float) -> Stamps:
    kinds = tuple((shape, radius * side) for shape in SHAPES for radius in RADII)
    middle = (num // 2 + 0.5, num // 2 + 0.5)
    drawn = [shape_coverage(shape, radius, middle, (num, num)) for shape, radius in kinds]
    # As a picture does: pixels of width one, then a little smoothing.
    masks = np.stack([_steep(ndimage.gaussian_filter(mask, 0.4)) for mask in drawn])
    origin = np.roll(masks, (-(num // 2), -(num // 2)), (1, 2))
    return Stamps(kinds, masks, np.conj(fft.rfft2(origin)))
