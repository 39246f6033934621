"""What the checker reports about one picture: objects, words, and pieces it could not name."""

from dataclasses import dataclass
from typing import TypeAlias

Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class Object:
    """One recognised shape.

    Args:
        shape: Name of the shape.
        color: Name of the palette colour.
        box: Left, top, right, bottom in pixels, y down; tight around the half-maximum edge.
        centre: Centre of mass (x, y) in pixels.
        score: Normalised correlation with the best template, in (0, 1].
    """

    shape: str
    color: str
    box: Box
    centre: tuple[float, float]
    score: float


@dataclass(frozen=True)
class ReadWord:
    """One word in block letters.

    Args:
        text: Capital letters.
        box: Left, top, right, bottom in pixels, y down.
        color: "black" or "white".
        score: Normalised correlation between the picture and the word drawn anew, in (0, 1].
    """

    text: str
    box: Box
    color: str
    score: float


@dataclass(frozen=True)
class Parsed:
    """All that was found in one picture.

    Args:
        objects: Recognised shapes, the most certain first.
        words: Words, the most certain first.
        junk: Number of visible pieces that are neither.
    """

    objects: tuple[Object, ...]
    words: tuple[ReadWord, ...]
    junk: int
