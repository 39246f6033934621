"""What a scene is. All lengths are fractions of the side of the square picture, y down."""

from dataclasses import dataclass
from typing import Final

RELATIONS: Final = ("left of", "right of", "above", "below")
INVERSE: Final = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


@dataclass(frozen=True)
class Thing:
    """A shape of one colour; it stays within `radius` of (x, y) along each axis."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Word:
    """Capital letters in the block font, centred at (x, y)."""

    text: str
    color: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """The content of one picture.

    Args:
        seed: Seed of the data set.
        index: Which scene of it.
        kind: "single", "counting", "pair", "relation", "count_attr" or "word".
        things: Objects, those of one shape and colour next to each other.
        word: The word of a word scene.
        relation: Of the first thing to the second, in scenes of kind "relation".
    """

    seed: int
    index: int
    kind: str
    things: tuple[Thing, ...]
    word: Word | None = None
    relation: str | None = None
