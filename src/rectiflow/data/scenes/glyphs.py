"""A block font of capital letters, 5 x 7 cells each, monospaced."""

from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float

GLYPH_ROWS: Final = 7
GLYPH_COLUMNS: Final = 5
PITCH_CELLS: Final = 6.5  # from letter to letter; a half cell is the unit of a word's bitmap
CAP_HEIGHT: Final = 0.20  # of the side of the picture
CELL: Final = CAP_HEIGHT / GLYPH_ROWS

_ROWS: Final = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "B": "####. #...# #...# ####. #...# #...# ####.",
    "C": ".#### #.... #.... #.... #.... #.... .####",
    "D": "###.. #..#. #...# #...# #...# #..#. ###..",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "G": ".###. #...# #.... #.### #...# #...# .###.",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "I": "##### ..#.. ..#.. ..#.. ..#.. ..#.. #####",
    "J": "..### ...#. ...#. ...#. ...#. #..#. .##..",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "O": ".###. #...# #...# #...# #...# #...# .###.",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "Q": ".###. #...# #...# #...# #.#.# #..#. .##.#",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "V": "#...# #...# #...# #...# .#.#. .#.#. ..#..",
    "W": "#...# #...# #...# #.#.# #.#.# ##.## #...#",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
    "Z": "##### ....# ...#. ..#.. .#... #.... #####",
}
GLYPHS: Final = {
    letter: np.array([[cell == "#" for cell in row] for row in rows.split()])
    for letter, rows in _ROWS.items()
}


def word_width(num_letters: int) -> float:
    """Width of a word as a fraction of the side: 0.51 for 3 letters, 0.89 for 5."""
    return CELL * (PITCH_CELLS * (num_letters - 1) + GLYPH_COLUMNS)


def word_coverage(text: str, center: tuple[float, float], size_px: int) -> Float[np.ndarray, "h w"]:
    """Exact fraction of every pixel that a word covers.

    Args:
        text: Capital letters A-Z.
        center: Centre (x, y) of the word, fractions of the side, y down.
        size_px: Side of the square picture.

    Returns:
        Coverage in [0, 1], float32, shape (size_px, size_px).

    Raises:
        ValueError: If a character has no glyph.
    """
    unknown = sorted(set(text) - set(GLYPHS))
    if unknown or not text:
        raise ValueError(f"a word must consist of the capital letters A-Z, got {text!r}")
    half = round(2 * PITCH_CELLS)
    bitmap = np.zeros((GLYPH_ROWS, half * (len(text) - 1) + 2 * GLYPH_COLUMNS), np.float32)
    for i, letter in enumerate(text):
        bitmap[:, i * half : i * half + 2 * GLYPH_COLUMNS] = GLYPHS[letter].repeat(2, axis=1)
    # Cells are axis-parallel rectangles, so coverage is a product of overlaps along the axes.
    rows = _overlaps(center[1] - CAP_HEIGHT / 2, CELL, GLYPH_ROWS, size_px)
    columns = _overlaps(center[0] - word_width(len(text)) / 2, CELL / 2, bitmap.shape[1], size_px)
    return rows @ bitmap @ columns.T


@lru_cache(maxsize=1024)
def _overlaps(
    start: float, cell: float, num_cells: int, size_px: int
) -> Float[np.ndarray, "pixels cells"]:
    """Length that pixel i and cell j share along one axis, in pixels."""
    edges = (start + cell * np.arange(num_cells + 1)) * size_px
    pixels = np.arange(size_px)[:, None]
    shared = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.maximum(shared, 0).astype(np.float32)
