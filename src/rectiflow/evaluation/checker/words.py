"""Words in block letters, read by drawing them anew.

A row of black or white pieces may be a word. Cell sizes, letter counts, offsets and blurs are
tried; each letter's window is correlated with all 26 letters, and the hypothesis with the highest
mean correlation over its letters wins.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from rectiflow.data.scenes import GLYPHS
from rectiflow.data.scenes.glyphs import GLYPH_COLUMNS, GLYPH_ROWS, PITCH_CELLS
from rectiflow.evaluation.checker.color import NAMES, coverage_of
from rectiflow.evaluation.checker.found import Box, ReadWord
from rectiflow.evaluation.checker.segment import Piece, Segmentation
from rectiflow.evaluation.checker.thresholds import Thresholds

LETTERS: Final = tuple(GLYPHS)
FINE: Final = 3  # samples along each side of a cell
MARGIN: Final = 1  # cells around a letter that must be empty
ROWS: Final = (GLYPH_ROWS + 2 * MARGIN) * FINE
COLUMNS: Final = (GLYPH_COLUMNS + 2 * MARGIN) * FINE
BLURS: Final = (0.15, 0.4, 0.65)  # Gaussian sigma in cells
STRETCHES: Final = (0.88, 0.94, 1.0, 1.06, 1.12)  # of the cell that the row's width suggests
SLACK: Final = 2  # samples by which row and letters may be off
FEWEST: Final = 3
MOST: Final = 6
CAP_HEIGHTS: Final = (0.13, 0.30)  # least and greatest height of a row, of the side
GAP: Final = 0.11  # between pieces of one word, of the side
COLORS: Final = ("black", "white")


@dataclass(frozen=True)
class Row:
    """Pieces that may be the letters of one word."""

    pieces: tuple[int, ...]
    color: str
    ink: Float[np.ndarray, "h w"]
    box: Box


@dataclass(frozen=True)
class Reading:
    """A word, the numbers of the pieces that it consists of, and its worst letter's score."""

    word: ReadWord
    pieces: tuple[int, ...]
    worst: float


def read_words(segmentation: Segmentation, thresholds: Thresholds) -> list[Reading]:
    """Every row of pieces that can be read as a word, with all pieces within its box."""
    readings = []
    for row in _rows(segmentation):
        reading = _read(row)
        if reading is None or reading.word.score < thresholds.word_match:
            continue
        if reading.worst >= thresholds.letter_match:
            inside = {i for i, p in enumerate(segmentation.pieces) if _is_inside(p.box, row.box)}
            readings.append(replace(reading, pieces=tuple(inside | set(reading.pieces))))
    return readings


def _is_inside(box: Box, outer: Box) -> bool:
    """Whether the centre of a box lies in another: a stroke that came apart, a filled counter."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def _rows(segmentation: Segmentation) -> Iterator[Row]:
    """Chains of grey pieces of one polarity, each within reach of the next."""
    side = segmentation.side
    for color in COLORS:
        ink = coverage_of(segmentation.image, segmentation.background, NAMES.index(color))
        ink = np.clip(ink, 0, 1.2)
        boxes = {
            i: piece.box
            for i, piece in enumerate(segmentation.pieces)
            if _may_be_ink(piece, color, ink)
            and piece.box[3] - piece.box[1] < CAP_HEIGHTS[1] * side
        }
        for chain in _chains(boxes, GAP * side):
            box = _outline(segmentation.pieces, chain)
            height, width = box[3] - box[1], box[2] - box[0]
            if CAP_HEIGHTS[0] * side <= height <= CAP_HEIGHTS[1] * side and width > 1.2 * height:
                yield Row(tuple(chain), color, ink, box)


def _may_be_ink(piece: Piece, color: str, ink: Float[np.ndarray, "h w"]) -> bool:
    """Whether a piece is on the dark or light side of the background, whatever its hue."""
    h, w = piece.mask.shape
    inside = ink[piece.top : piece.top + h, piece.left : piece.left + w][piece.mask]
    return piece.color in (None, NAMES.index(color)) or bool(inside.mean() > 0.5)


def _chains(boxes: dict[int, tuple[float, ...]], gap: float) -> Iterator[list[int]]:
    left = sorted(boxes, key=lambda i: boxes[i][0])
    while left:
        chain, reach = [left.pop(0)], 0.0
        top, bottom, reach = boxes[chain[0]][1], boxes[chain[0]][3], boxes[chain[0]][2]
        for i in list(left):
            box = boxes[i]
            if box[0] - reach < gap and min(bottom, box[3]) > max(top, box[1]):
                chain.append(i)
                left.remove(i)
                top, bottom = min(top, box[1]), max(bottom, box[3])
                reach = max(reach, box[2])
        yield chain


def _outline(pieces: list[Piece], chain: list[int]) -> Box:
    lefts, tops, rights, bottoms = zip(*(pieces[i].box for i in chain), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _read(row: Row) -> Reading | None:
    """The best word for a row, or None if no cell size fits both its width and its height."""
    best: tuple[float, float, str] | None = None
    left, top, right, bottom = row.box
    for num in range(FEWEST, MOST + 1):
        cells_wide = PITCH_CELLS * (num - 1) + GLYPH_COLUMNS
        for stretch in STRETCHES:
            cell = (right - left) / cells_wide * stretch
            if not 0.8 < cell * GLYPH_ROWS / (bottom - top) < 1.25:
                continue
            middle = (top + bottom) / 2, (left + right) / 2
            found = _decode(_strip(row.ink, middle, cell, cells_wide), num)
            if best is None or found > best:
                best = found
    if best is None:
        return None
    score, worst, text = best
    return Reading(ReadWord(text, row.box, row.color, score), row.pieces, worst)


def _strip(
    ink: Float[np.ndarray, "h w"], middle: tuple[float, float], cell: float, cells_wide: float
) -> Float[np.ndarray, "rows columns"]:
    """The row resampled to `FINE` samples a cell, with margins and slack; exact area means."""
    step = cell / FINE
    num_rows = ROWS + 2 * SLACK
    num_columns = round((cells_wide + 2 * MARGIN) * FINE) + 2 * SLACK
    rows = _means(middle[0] - step * num_rows / 2, step, num_rows, ink.shape[0])
    columns = _means(middle[1] - step * num_columns / 2, step, num_columns, ink.shape[1])
    return rows @ ink @ columns.T


def _means(start: float, step: float, num: int, num_pixels: int) -> Float[np.ndarray, "num pixels"]:
    """Weights of every pixel in the mean over every sample's interval, along one axis."""
    edges = start + step * np.arange(num + 1)
    pixels = np.arange(num_pixels)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(shared, 0) / step).astype(np.float32)


def _decode(strip: Float[np.ndarray, "rows columns"], num: int) -> tuple[float, float, str]:
    """Mean and least correlation over the letters, and the text, of the best alignment."""
    windows = np.lib.stride_tricks.sliding_window_view(strip, (ROWS, COLUMNS))
    num_down, num_along = windows.shape[:2]
    flat = windows.reshape(num_down * num_along, ROWS * COLUMNS)
    flat = flat - flat.mean(1, keepdims=True)
    norm = np.maximum(np.linalg.norm(flat, axis=1), 0.05 * np.sqrt(ROWS * COLUMNS))
    scores = (flat @ letter_templates().T / norm[:, None]).reshape(
        num_down, num_along, len(BLURS), len(LETTERS)
    )
    at = np.round(PITCH_CELLS * FINE * np.arange(num)).astype(int)
    # Place of a letter = the word's offset plus its own, which is one sample at most.
    letter, place = scores.max(3), scores.argmax(3)
    best = (-1.0, -1.0, "")
    for offset in range(SLACK * 2 + 1):
        near = np.clip(at + offset + np.array([[-1], [0], [1]]), 0, num_along - 1)
        shifted = letter[:, near]  # down, shift, letter, blur
        chosen = shifted.max(1)
        mean = chosen.mean(1)
        down, blur = np.unravel_index(int(mean.argmax()), mean.shape)
        if mean[down, blur] > best[0]:
            shift = shifted[down, :, :, blur].argmax(0)
            columns = near[shift, np.arange(num)]
            text = "".join(LETTERS[place[down, c, blur]] for c in columns)
            best = float(mean[down, blur]), float(chosen[down, :, blur].min()), text
    return best


@lru_cache(maxsize=1)
def letter_templates() -> Float[np.ndarray, "templates samples"]:
    """All letters at all blurs, zero mean and unit norm; blur varies slowest."""
    rows = []
    for blur in BLURS:
        for glyph in GLYPHS.values():
            sharp = np.pad(glyph.astype(np.float32), MARGIN).repeat(FINE, 0).repeat(FINE, 1)
            soft = ndimage.gaussian_filter(sharp, blur * FINE, mode="constant").reshape(-1)
            soft = soft - soft.mean()
            rows.append(soft / np.linalg.norm(soft))
    return np.stack(rows)
