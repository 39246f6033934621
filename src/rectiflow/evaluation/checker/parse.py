"""From a picture to what is in it: pieces, words, shapes, and what could not be named."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rectiflow.evaluation.checker.color import NAMES
from rectiflow.evaluation.checker.found import Object, Parsed
from rectiflow.evaluation.checker.segment import Piece, Segmentation, segment
from rectiflow.evaluation.checker.shape import Match, center_of, match
from rectiflow.evaluation.checker.split import Part, split
from rectiflow.evaluation.checker.thresholds import DEFAULT, Thresholds
from rectiflow.evaluation.checker.words import Reading, read_words

WORKING_LIMIT_PX = 256  # wider pictures are reduced by a whole factor first


def parse(image_u8: UInt8[np.ndarray, "h w 3"], thresholds: Thresholds = DEFAULT) -> Parsed:
    """Everything that is in a picture.

    Args:
        image_u8: sRGB bytes, at least 32 px on each side.
        thresholds: What counts as what.

    Raises:
        ValueError: If the picture is too small to hold a scene.
    """
    if min(image_u8.shape[:2]) < 32:
        raise ValueError(f"a picture must be at least 32 px wide and high, got {image_u8.shape}")
    factor = max(1, min(image_u8.shape[:2]) // (WORKING_LIMIT_PX // 2))
    segmentation = segment(_reduced(image_u8, factor), thresholds)
    matches = match(segmentation.pieces)
    readings = _better_as_words(segmentation, matches, thresholds)
    spelled = {i for reading in readings for i in reading.pieces}
    objects: list[Object] = []
    junk = 0
    for i, (piece, found) in enumerate(zip(segmentation.pieces, matches, strict=True)):
        if i in spelled:
            continue
        named = _objects(piece, found, segmentation, thresholds)
        objects += named
        junk += not named
    return _scaled(objects, readings, junk, factor)


def _better_as_words(
    segmentation: Segmentation, matches: list[Match], thresholds: Thresholds
) -> list[Reading]:
    """Rows that read better as letters than they match as shapes."""
    kept = []
    for reading in read_words(segmentation, thresholds):
        areas = np.array([segmentation.pieces[i].area for i in reading.pieces])
        scores = np.array([matches[i].score for i in reading.pieces])
        if reading.word.score > (scores @ areas) / areas.sum() + thresholds.word_lead:
            kept.append(reading)
    return kept


def _objects(
    piece: Piece, found: Match, segmentation: Segmentation, thresholds: Thresholds
) -> list[Object]:
    """The one object that a piece is, or the several; none if it cannot be named."""
    side = segmentation.side
    if piece.color is None or piece.area < thresholds.min_area * side**2:
        return []
    is_single = (
        found.score >= thresholds.min_match
        and found.margin >= thresholds.min_margin
        and thresholds.min_radius <= found.radius_px / side <= thresholds.max_radius
    )
    left, top, right, bottom = piece.box
    may_be_several = max(right - left, bottom - top) > thresholds.split_extent * side
    if may_be_several and not (is_single and found.score >= thresholds.single_match):
        parts, residual = split(piece, side, thresholds)
        if parts:
            return [_part(part, NAMES[piece.color], 1 - residual) for part in parts]
    if not is_single:
        return []
    x, y = center_of(piece.coverage)
    center = (piece.left + x, piece.top + y)
    return [Object(found.shape, NAMES[piece.color], piece.box, center, found.score)]


def _part(part: Part, color: str, score: float) -> Object:
    r = part.radius_px
    box = (part.x - r, part.y - r, part.x + r, part.y + r)
    return Object(part.shape, color, box, (part.x, part.y), score)


def _scaled(objects: list[Object], readings: list[Reading], junk: int, factor: int) -> Parsed:
    """The result in pixels of the picture as it was given, the most certain first."""
    words = [reading.word for reading in readings]
    if factor > 1:
        objects = [
            replace(o, box=_times(o.box, factor), centre=_times(o.centre, factor)) for o in objects
        ]
        words = [replace(word, box=_times(word.box, factor)) for word in words]
    by_score = sorted(objects, key=lambda o: -o.score)
    return Parsed(tuple(by_score), tuple(sorted(words, key=lambda w: -w.score)), junk)


def _times(values: tuple[float, ...], factor: int) -> Any:
    return tuple(value * factor for value in values)


def _reduced(image: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Means over squares of `factor` pixels; a rest at the right and bottom is cut off."""
    if factor == 1:
        return image
    height, width = (n // factor for n in image.shape[:2])
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(squares.mean((1, 3))).astype(np.uint8)
