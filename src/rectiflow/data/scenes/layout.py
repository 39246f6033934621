"""From (seed, index) to a scene: what is in it, and where.

Objects sit in the middle of different cells of a 3 x 3 grid. Cells are 1/4 of the side wide and
3/8 apart: at 64 px, 2 x 2 positions of a latent of factor 8, with one between them. An object
meets the latent's grid in the same way in every cell, so a small network learns each shape once
and spends its few minutes on what captions say: which, how many, of what colour, where. With sizes
and places that varied by one pixel its loss was a third higher (docs/benchmarks.md).

Places and sizes of objects are whole numbers of 1/256 of the side: at 64 px that is the grid of
the renderer's samples, so they are drawn exactly there.
"""

from dataclasses import dataclass
from typing import Final

from rectiflow.data.scenes.dice import Dice
from rectiflow.data.scenes.glyphs import GLYPHS, word_width
from rectiflow.data.scenes.heldout import HELDOUT
from rectiflow.data.scenes.palette import COLORS, WORD_COLORS
from rectiflow.data.scenes.scene import RELATIONS, Scene, Thing, Word
from rectiflow.data.scenes.shapes import SHAPES
from rectiflow.data.scenes.words import COMMON_WORDS

UNIT: Final = 256
GRID: Final = 3
CELL_CENTERS: Final = (32, 128, 224)
# 0.113 of the side; 96 - 2 * 29 = 38 units between objects, 32 - 29 = 3 to the border.
RADIUS: Final = 29
# Words of all lengths start at one margin, so that letter k has one place; five letters end at 242.
WORD_START: Final = 15
MAX_COUNT: Final = 5
COMMON_WORD_SHARE: Final = 0.5

# More of what is learned late: relations and words; a single object is part of every other kind.
KINDS: Final = {
    "single": 0.05,
    "counting": 0.25,
    "pair": 0.15,
    "relation": 0.25,
    "count_attr": 0.05,
    "word": 0.25,
}

Cell = tuple[int, int]  # column, row
CELLS: Final[tuple[Cell, ...]] = tuple((i, j) for j in range(GRID) for i in range(GRID))


@dataclass(frozen=True, order=True)
class Group:
    """`count` objects of one shape and colour."""

    shape: str
    color: str
    count: int = 1


def make_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the endless data set `seed`, a pure function of the two.

    It shows no combination of `HELDOUT`: scenes that would are drawn again.

    Raises:
        ValueError: If the index is negative.
    """
    if index < 0:
        raise ValueError(f"index must be >= 0, got {index}")
    dice = Dice(seed, index, "scene")
    kind = dice.weighted(KINDS)
    while True:
        scene = _draw(kind, seed, index, dice)
        if not any(HELDOUT.found_in(scene)):
            return scene


def _draw(kind: str, seed: int, index: int, dice: Dice) -> Scene:
    if kind == "word":
        return Scene(seed, index, kind, (), word=place_word(_draw_text(dice), dice))
    relation = dice.choose(RELATIONS) if kind == "relation" else None
    things = place(_draw_groups(kind, dice), relation, dice)
    return Scene(seed, index, kind, things, relation=relation)


def _draw_groups(kind: str, dice: Dice) -> list[Group]:
    first, second = dice.sample(SHAPES, 2)
    colors = dice.choose(COLORS), dice.choose(COLORS)
    if kind == "single":
        return [Group(first, colors[0])]
    if kind == "counting":
        return [Group(first, colors[0], dice.between(2, MAX_COUNT))]
    counts = (1, 1)
    if kind == "count_attr":
        counts = dice.choose([(1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)])
    return [Group(first, colors[0], counts[0]), Group(second, colors[1], counts[1])]


def _draw_text(dice: Dice) -> str:
    if dice.uniform() < COMMON_WORD_SHARE:
        return dice.choose(COMMON_WORDS)
    return "".join(dice.choose(tuple(GLYPHS)) for _ in range(dice.between(3, 5)))


def place(groups: list[Group], relation: str | None, dice: Dice) -> tuple[Thing, ...]:
    """Give every object of the groups a place of its own.

    Args:
        groups: What to place; at most 9 objects in all.
        relation: Of the only object of the first group to that of the second, or None.
        dice: Source of all draws.
    """
    if relation is None:
        cells = dice.sample(CELLS, sum(group.count for group in groups))
    else:
        cells = _related_cells(relation, dice)
    things = []
    for group in groups:
        for _ in range(group.count):
            x, y = (CELL_CENTERS[i] / UNIT for i in cells.pop())
            things.append(Thing(group.shape, group.color, x, y, RADIUS / UNIT))
    return tuple(things)


def place_word(text: str, dice: Dice) -> Word:
    """A word at half the height of the picture, from the left margin on, black or white."""
    x = WORD_START / UNIT + word_width(len(text)) / 2
    return Word(text, dice.choose(WORD_COLORS), x, 0.5)


def _related_cells(relation: str, dice: Dice) -> list[Cell]:
    """Two cells of one row or column, the second thing's first (cells are taken from the end)."""
    line = dice.between(0, GRID - 1)
    low, high = sorted(dice.sample(range(GRID), 2))
    first, second = (low, high) if relation in ("left of", "above") else (high, low)
    if relation in ("left of", "right of"):
        return [(second, line), (first, line)]
    return [(line, second), (line, first)]
