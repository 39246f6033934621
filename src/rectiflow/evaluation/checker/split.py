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
from scipy import ndimage

from rectiflow.data.scenes import SHAPES, shape_coverage
from rectiflow.evaluation.checker.segment import Piece
from rectiflow.evaluation.checker.thresholds import Thresholds

WORKING_SIDE_PX: Final = 64  # larger pictures are reduced to about this before fitting
RADII: Final = (0.085, 0.094, 0.103, 0.112, 0.122, 0.133, 0.145, 0.158)  # of the side
MOST: Final = 5
ROUNDS: Final = 2  # of fitting every shape again with the others held
WELL_EXPLAINED: Final = 0.12  # part left over that is only the edges
SAVING: Final = 0.75  # of what is left over; a shape more must save at least the rest
HOPELESS: Final = 0.4  # part left over by sharp shapes that blurred ones will not explain
GIVE_UP: Final = 0.85  # of what is left over; a shape that saves less ends the search
TOO_MANY: Final = (
    1.15  # k of MOST equal shapes leave 1 - k / MOST over; this - k / MOST is too much
)
ALIKE: Final = 1.15  # how much more may be left over if the shapes are equal
BLURS: Final = (0.006, 0.02)  # Gaussian sigma in parts of the side; the sharp one is tried first
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
        square_spectra: The same of the masks' squares.
    """

    kinds: tuple[tuple[str, float], ...]
    masks: Float[np.ndarray, "stamps n n"]
    spectra: Complex[np.ndarray, "stamps n half"]
    square_spectra: Complex[np.ndarray, "stamps n half"]

    def rows(self, start: int, stop: int) -> "Stamps":
        """Some of the stamps."""
        part = slice(start, stop)
        return Stamps(
            self.kinds[part], self.masks[part], self.spectra[part], self.square_spectra[part]
        )


def split(piece: Piece, side: int, thresholds: Thresholds) -> tuple[list[Part], float]:
    """The shapes that a piece consists of, and the part of its area that they fail to explain.

    Returns:
        At least two shapes, or none if one explains the piece or several do not.
    """
    factor = max(1, side // WORKING_SIDE_PX)
    working_side = side / factor
    small = _reduced(np.minimum(piece.coverage, 1), factor)
    pad = math.ceil(max(RADII) * working_side) + 1
    num = WINDOW_STEP_PX * math.ceil((max(small.shape) + 2 * pad) / WINDOW_STEP_PX)
    target = np.zeros((num, num), np.float32)
    target[pad : pad + small.shape[0], pad : pad + small.shape[1]] = small
    best: tuple[list[Part], float] = ([], 1.0)
    for blur in BLURS:
        stamps = _stamps(num, working_side, blur)
        places, residual = _explain(target, stamps, thresholds)
        if places and residual < best[1]:
            best = [_part(place, stamps, piece, pad, factor) for place in places], residual
        if residual < WELL_EXPLAINED or residual > HOPELESS:
            break
    return best


def _part(place: Place, stamps: Stamps, piece: Piece, pad: int, factor: int) -> Part:
    stamp, row, column = place
    shape, radius = stamps.kinds[stamp]
    x = piece.left + (column + 0.5 - pad) * factor
    y = piece.top + (row + 0.5 - pad) * factor
    return Part(shape, x, y, radius * factor)


def _explain(target: Mask, stamps: Stamps, thresholds: Thresholds) -> tuple[list[Place], float]:
    """The smallest number of shapes that explains a mask; none if that is one or too many."""
    area = float(target.sum())
    places: list[Place] = []
    accepted: list[Place] = []
    residual = 1.0
    for _ in range(MOST):
        places = _fit(places, target, stamps)
        left_over = _left_over(target - _union(places, stamps)) / area
        if accepted and left_over > SAVING * residual:
            break  # what is left is not shaped like a shape
        is_good = left_over <= thresholds.split_residual
        if is_good and _are_apart(places, stamps, thresholds.split_overlap):
            accepted = list(places)
        elif accepted or left_over > min(GIVE_UP * residual, TOO_MANY - len(places) / MOST):
            break
        residual = left_over
        if residual < WELL_EXPLAINED:
            break
    if len(accepted) < 2:
        return [], residual
    return _as_one_kind(accepted, residual, target, stamps, thresholds)


def _as_one_kind(
    places: list[Place], residual: float, target: Mask, stamps: Stamps, thresholds: Thresholds
) -> tuple[list[Place], float]:
    """The same number of equal shapes, if they explain a mask about as well as mixed ones.

    Two triangles over each other look much like a triangle and a square; objects of one colour
    that meet are mostly of one kind.
    """
    shapes = sorted({stamps.kinds[stamp][0] for stamp, _, _ in places})
    for shape in shapes if len(shapes) > 1 else ():
        first = next(i for i, (name, _) in enumerate(stamps.kinds) if name == shape)
        alike = stamps.rows(first, first + len(RADII))
        found: list[Place] = []
        for _ in places:
            found = _fit(found, target, alike)
        left_over = _left_over(target - _union(found, alike)) / float(target.sum())
        if left_over <= ALIKE * residual and _are_apart(found, alike, thresholds.split_overlap):
            return [(stamp + first, row, column) for stamp, row, column in found], left_over
    return places, residual


def _fit(found: list[Place], target: Mask, stamps: Stamps) -> list[Place]:
    """One shape more, and all of them placed again."""
    places = [*found, _best(target, _union(found, stamps), stamps)]
    for held in list(range(len(places))) * ROUNDS if found else ():
        others = places[:held] + places[held + 1 :]
        places[held] = _best(target, _union(others, stamps), stamps)
    return places


def _best(target: Mask, taken: Mask, stamps: Stamps) -> Place:
    """The stamp and place that lessen the squared error most; what is taken costs nothing.

    With rest r = target - taken, a stamp m lessens it by sum(2 m r - m^2) where nothing is taken,
    and by nothing where all is: the second term is weighted by what is not taken.
    """
    rest, free = np.fft.rfft2(np.stack([2 * (target - taken), taken - 1]))
    spectrum = rest * stamps.spectra + free * stamps.square_spectra
    gains = np.fft.irfft2(spectrum, s=target.shape, axes=(1, 2))
    stamp, row, column = np.unravel_index(int(gains.argmax()), gains.shape)
    return int(stamp), int(row), int(column)


def _left_over(difference: Mask) -> float:
    """Pixels that disagree. Errors of half a pixel, as places and radii have them, cancel."""
    return float(np.abs(np.asarray(ndimage.uniform_filter(difference, 5))).sum())


def _are_apart(places: list[Place], stamps: Stamps, most: float) -> bool:
    """Whether no two shapes lie over each other, as those that emulate one odd shape do."""
    masks = [_union([place], stamps) for place in places]
    return all(
        float((a * b).sum()) <= most * min(float(a.sum()), float(b.sum()))
        for a, b in itertools.combinations(masks, 2)
    )


def _union(places: list[Place], stamps: Stamps) -> Mask:
    total = np.zeros_like(stamps.masks[0])
    middle = total.shape[0] // 2
    for stamp, row, column in places:
        moved = np.roll(stamps.masks[stamp], (row - middle, column - middle), (0, 1))
        np.maximum(total, moved, out=total)
    return total


def _reduced(coverage: Mask, factor: int) -> Mask:
    """Means over squares of `factor` pixels; the last squares are filled with zeros."""
    if factor == 1:
        return coverage
    height, width = (-(-n // factor) for n in coverage.shape)
    fill = [(0, height * factor - coverage.shape[0]), (0, width * factor - coverage.shape[1])]
    padded = np.pad(coverage, fill)
    return padded.reshape(height, factor, width, factor).mean((1, 3))


@lru_cache(maxsize=32)
def _stamps(num: int, side: float, blur: float) -> Stamps:
    kinds = tuple((shape, radius * side) for shape in SHAPES for radius in RADII)
    middle = (num // 2 + 0.5, num // 2 + 0.5)
    drawn = [shape_coverage(shape, radius, middle, (num, num)) for shape, radius in kinds]
    masks = np.stack([ndimage.gaussian_filter(mask, blur * side) for mask in drawn])
    origin = np.roll(masks, (-(num // 2), -(num // 2)), (1, 2))
    spectra, squares = (np.conj(np.fft.rfft2(of)) for of in (origin, origin**2))
    return Stamps(kinds, masks, spectra, squares)
