"""Combinations that no training scene and no training caption contains.

Every shape, colour, count, relation and letter is seen in training; these pairs and triples are
not, so prompts made of them measure composition instead of memory.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rectiflow.data.scenes.scene import INVERSE, Scene, Thing

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class HeldOut:
    """What is held out.

    Args:
        shape_color: Pairs (shape, colour).
        shape_count: Pairs (shape, how many of it in the picture).
        relations: Triples (shape, relation, shape), closed under swapping the two shapes.
        letters: Pairs (letter, its place in the word, from 0).
    """

    shape_color: frozenset[tuple[str, str]]
    shape_count: frozenset[tuple[str, int]]
    relations: frozenset[Triple]
    letters: frozenset[tuple[str, int]]

    def has_word(self, text: str) -> bool:
        """Whether a letter of the word stands at a held-out place."""
        return any((letter, place) in self.letters for place, letter in enumerate(text))

    def found_in(self, scene: Scene) -> Iterator[tuple[str, str | int] | Triple]:
        """Every held-out combination that the picture of a scene shows, said or not."""
        things = scene.things
        yield from {(thing.shape, thing.color) for thing in things} & self.shape_color
        yield from set(Counter(thing.shape for thing in things).items()) & self.shape_count
        for a in things:
            for b in things:
                if a.shape != b.shape:
                    shown = {(a.shape, relation, b.shape) for relation in relations_between(a, b)}
                    yield from shown & self.relations
        if scene.word is not None:
            yield from set(zip(scene.word.text, range(9), strict=False)) & self.letters


def relations_between(a: Thing, b: Thing) -> Iterator[str]:
    """Relations of `a` to `b` by direction: within 60 degrees of an axis, so diagonals have two.

    GenEval's rule with its dead zone left out, hence true whenever GenEval's rule is.
    """
    dx, dy = a.x - b.x, a.y - b.y
    half = 0.5 * (dx * dx + dy * dy) ** 0.5
    if dx < -half:
        yield "left of"
    if dx > half:
        yield "right of"
    if dy < -half:
        yield "above"
    if dy > half:
        yield "below"


def _closed(*triples: Triple) -> frozenset[Triple]:
    return frozenset(triples) | {(b, INVERSE[relation], a) for a, relation, b in triples}


# One colour a shape, no colour twice; at most one direction a pair of shapes, so that both orders
# of every pair are seen along the other axis.
HELDOUT: Final = HeldOut(
    shape_color=frozenset(
        {
            ("circle", "pink"),
            ("square", "yellow"),
            ("triangle", "purple"),
            ("star", "blue"),
            ("cross", "green"),
            ("ring", "orange"),
        }
    ),
    shape_count=frozenset({("square", 2), ("star", 3), ("circle", 4), ("triangle", 5)}),
    relations=_closed(
        ("circle", "left of", "star"),
        ("square", "above", "ring"),
        ("triangle", "right of", "cross"),
        ("ring", "below", "circle"),
        ("star", "left of", "triangle"),
        ("cross", "above", "square"),
    ),
    letters=frozenset({("J", 0), ("W", 1), ("P", 2), ("K", 3), ("Y", 4)}),
)
