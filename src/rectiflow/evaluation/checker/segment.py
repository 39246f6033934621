"""From a picture to its pieces: connected, of one colour, with a soft coverage each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from rectiflow.data.scenes import BACKGROUND
from rectiflow.evaluation.checker.color import NAMES, Rays, coverage_of, rays_from, to_lab
from rectiflow.evaluation.checker.found import Box
from rectiflow.evaluation.checker.regions import depth_inside, grown, labelled, outline_of
from rectiflow.evaluation.checker.thresholds import Thresholds

SURROUNDINGS: Final = 0.035  # a piece owns the pixels around it this far, in parts of the side
RGB = tuple[int, int, int]
Mask = Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class Piece:
    """A connected region of one colour.

    Args:
        color: Index of its palette colour, or None if it has none.
        coverage: Soft mask within a window around the piece; 0 where another piece is nearer. Only
            the half-maximum region itself if the piece has no colour to measure coverage by.
        mask: The half-maximum region in the same window.
        left, top: Position of the window in the picture, pixels.
    """

    color: int | None
    coverage: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    left: int
    top: int

    @property
    def area(self) -> int:
        """Number of pixels inside the half-maximum edge."""
        return int(self.mask.sum())

    @property
    def box(self) -> Box:
        """Left, top, right, bottom in pixels of the picture, the last two exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return (
            float(self.left + columns[0]),
            float(self.top + rows[0]),
            float(self.left + columns[-1] + 1),
            float(self.top + rows[-1] + 1),
        )


@dataclass(frozen=True)
class Segmentation:
    """The pieces of a picture, and what the later steps need of it.

    Args:
        image: The picture, denoised.
        background: Its background, sRGB bytes.
        side: Side in pixels; lengths in `Thresholds` are parts of it.
        pieces: In no particular order.
    """

    image: UInt8[np.ndarray, "h w 3"]
    background: RGB
    side: int
    pieces: list[Piece]


def segment(image: UInt8[np.ndarray, "h w 3"], thresholds: Thresholds) -> Segmentation:
    """Find the pieces of a picture."""
    side = min(image.shape[:2])
    if side >= thresholds.median_from_px:
        image = median_of_nine(image)
    lab = to_lab(image)
    border = _border(image.shape[:2])
    background = _background(image[border], thresholds)
    rays = rays_from(background)
    visible = _visible(lab, background, border, thresholds)
    masks = [
        mask
        for color, region in _colored_regions(lab, visible, rays, thresholds)
        for mask in _half_maximum(coverage_of(image, background, color), region, thresholds)
    ]
    return Segmentation(image, background, side, _pieces(image, lab, background, masks, thresholds))


def median_of_nine(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """3x3 median of every channel, the border repeated, by a network of 19 exchanges."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    v = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
    for a, b in _EXCHANGES:
        v[a], v[b] = np.minimum(v[a], v[b]), np.maximum(v[a], v[b])
    return v[4]


# Sorts columns and then only what can still be the median (Smith 1996).
_EXCHANGES: Final = (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3),
    (5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
)  # fmt: skip


def _border(shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    width = max(1, round(0.02 * min(shape)))
    border = np.ones(shape, bool)
    border[width:-width, width:-width] = False
    return border


def _background(border_pixels: UInt8[np.ndarray, "n 3"], thresholds: Thresholds) -> RGB:
    median = np.median(border_pixels, axis=0).astype(np.uint8)
    named = np.array(BACKGROUND, np.uint8)
    distance = float(np.linalg.norm(to_lab(median) - to_lab(named)))
    chosen = median if distance <= thresholds.background_tolerance else named
    return int(chosen[0]), int(chosen[1]), int(chosen[2])


def _visible(
    lab: Float[np.ndarray, "h w 3"],
    background: RGB,
    border: Bool[np.ndarray, "h w"],
    thresholds: Thresholds,
) -> Bool[np.ndarray, "h w"]:
    """Pixels that stand out from the background by more than its own noise."""
    contrast = np.linalg.norm(lab - to_lab(np.array(background, np.uint8)), axis=-1)
    contrast = ndimage.gaussian_filter(contrast, thresholds.smoothing * min(lab.shape[:2]))
    level = np.median(contrast[border])
    noise = np.median(np.abs(contrast[border] - level))
    return contrast > max(thresholds.contrast, level + thresholds.contrast_noise * noise)


def _colored_regions(
    lab: Float[np.ndarray, "h w 3"],
    visible: Bool[np.ndarray, "h w"],
    rays: Rays,
    thresholds: Thresholds,
) -> Iterator[tuple[int, Bool[np.ndarray, "h w"]]]:
    """Regions of one palette colour each; touching objects of different colours come apart."""
    component, num = labelled(visible)
    if not num:
        return
    inside = np.flatnonzero(component)
    pixels, owner = lab.reshape(-1, 3)[inside], component.reshape(-1)[inside]
    color, reach, _ = rays.nearest(pixels)
    # Edges are mixed with the background and may pass near another colour: they get no vote.
    weight = np.where(reach >= thresholds.voting_reach, reach, 1e-3)
    ballot = owner * len(NAMES) + color
    votes = np.bincount(ballot, weight, (num + 1) * len(NAMES)).reshape(num + 1, len(NAMES))
    sizes = np.bincount(owner, minlength=num + 1)
    for index in range(1, num + 1):
        if sizes[index] < thresholds.junk_area * visible.size:
            continue
        real = np.flatnonzero(votes[index] >= thresholds.second_color * votes[index].sum())
        if len(real) <= 1:
            yield int(votes[index].argmax()), component == index
            continue
        mine = owner == index
        nearest, _, _ = rays.nearest(pixels[mine], tuple(int(c) for c in real))
        for c in real:
            region = np.zeros(visible.size, bool)
            region[inside[mine][nearest == c]] = True
            yield int(c), region.reshape(visible.shape)


def _half_maximum(
    coverage: Float[np.ndarray, "h w"], region: Bool[np.ndarray, "h w"], thresholds: Thresholds
) -> Iterator[Bool[np.ndarray, "h w"]]:
    """Connected parts of a region within its half-maximum edge, which blur does not move."""
    top = np.percentile(coverage[region], 90)
    inner = region & (coverage > thresholds.half_maximum * top)
    label, num = labelled(inner)
    sizes = np.bincount(label.reshape(-1), minlength=num + 1)
    for index in range(1, num + 1):
        if sizes[index] >= thresholds.junk_area * region.size:
            yield label == index


def _pieces(
    image: UInt8[np.ndarray, "h w 3"],
    lab: Float[np.ndarray, "h w 3"],
    background: RGB,
    masks: list[Mask],
    thresholds: Thresholds,
) -> list[Piece]:
    """Give every mask the pixels nearest to it, so that blur's tails are not cut off."""
    if not masks:
        return []
    owner = np.zeros(lab.shape[:2], np.int32)
    for index, mask in enumerate(masks, start=1):
        owner[mask] = index
    nearest = grown(owner, max(2.0, SURROUNDINGS * min(lab.shape[:2])))
    pieces = []
    for index, window in enumerate(ndimage.find_objects(nearest), start=1):
        mask = owner[window] == index
        if _is_rim(index, owner[window], thresholds):
            continue
        color = _name(lab[window], mask, rays_from(background), thresholds)
        soft = mask.astype(np.float32)
        if color is not None:
            covered = np.clip(coverage_of(image[window], background, color), 0, 1.2)
            soft = np.where(nearest[window] == index, covered, 0).astype(np.float32)
        pieces.append(Piece(color, soft, mask, window[1].start, window[0].start))
    return pieces


def _is_rim(index: int, owner: Int[np.ndarray, "h w"], thresholds: Thresholds) -> bool:
    """Whether a piece is only the mixed edge of a larger one of another colour.

    Mixtures of two colours may pass near a third, in a thin band along the contact.
    """
    mine = owner == index
    outline = owner[outline_of(mine)]
    others = outline[outline > 0]
    if len(others) <= thresholds.rim_contact * len(outline):
        return False
    return bool(np.count_nonzero(mine) < np.count_nonzero(np.isin(owner, others)))


def _name(
    lab: Float[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    rays: Rays,
    thresholds: Thresholds,
) -> int | None:
    """Palette colour of the median of a mask's core, or None if it has no one colour.

    Never of the whole mask: its edge is mixed with the background.
    """
    depth = depth_inside(mask)
    core = lab[depth >= thresholds.core_depth * depth.max()]
    median = np.median(core, axis=0)
    if np.linalg.norm(core - median, axis=1).mean() > thresholds.max_core_spread:
        return None
    color, _, distance = rays.nearest(median[None])
    return int(color[0]) if distance[0] <= thresholds.max_color_distance else None
