from collections import Counter

from rectiflow.data.scenes import HELDOUT, PALETTE, RELATIONS, SHAPES, Thing, Word, make_scene
from rectiflow.data.scenes.heldout import relations_between
from rectiflow.data.scenes.scene import Scene

SCENES = [make_scene(1, i) for i in range(20_000)]


def geneval_relations(a, b):
    """GenEval's rule for boxes of the size of the objects, written from its description."""
    offset = {"x": a.x - b.x, "y": a.y - b.y}
    length = (offset["x"] ** 2 + offset["y"] ** 2) ** 0.5
    for axis, d in offset.items():
        rest = max(abs(d) - 0.1 * (2 * a.radius + 2 * b.radius), 0) / length
        if rest > 0.5:
            low, high = ("left of", "right of") if axis == "x" else ("above", "below")
            yield low if d < 0 else high


def test_training_scenes_never_show_a_held_out_combination():
    for scene in SCENES:
        counts = Counter(thing.shape for thing in scene.things)
        for shape, num in counts.items():
            assert (shape, num) not in HELDOUT.shape_count
        for a in scene.things:
            assert (a.shape, a.color) not in HELDOUT.shape_color
            for b in scene.things:
                if a is not b:
                    for relation in geneval_relations(a, b):
                        assert (a.shape, relation, b.shape) not in HELDOUT.relations
        if scene.word:
            for place, letter in enumerate(scene.word.text):
                assert (letter, place) not in HELDOUT.letters


def test_every_other_combination_is_shown():
    shape_colors, shape_counts, triples, letters = set(), set(), set(), set()
    for scene in SCENES:
        shape_counts |= set(Counter(thing.shape for thing in scene.things).items())
        shape_colors |= {(thing.shape, thing.color) for thing in scene.things}
        if scene.relation:
            a, b = scene.things
            triples.add((a.shape, scene.relation, b.shape))
        if scene.word:
            letters |= {(letter, place) for place, letter in enumerate(scene.word.text)}
    pairs = {(shape, color) for shape in SHAPES for color in PALETTE}
    assert shape_colors == pairs - HELDOUT.shape_color
    counts = {(shape, count) for shape in SHAPES for count in range(1, 6)}
    assert shape_counts == counts - HELDOUT.shape_count
    every = {(a, r, b) for a in SHAPES for r in RELATIONS for b in SHAPES if a != b}
    assert triples == every - HELDOUT.relations
    alphabet = [chr(ord("A") + i) for i in range(26)]
    assert letters == {(a, i) for a in alphabet for i in range(5)} - HELDOUT.letters


def test_held_out_relations_are_closed_under_swapping():
    swap = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert len(HELDOUT.relations) == 12
    assert {(b, swap[r], a) for a, r, b in HELDOUT.relations} == HELDOUT.relations


def test_each_kind_of_held_out_combination_is_found():
    def found(*things, word=None):
        return set(HELDOUT.found_in(Scene(0, 0, "", things, word)))

    pink_circle = Thing("circle", "pink", 0.5, 0.5, 0.1)
    assert found(pink_circle) == {("circle", "pink")}
    squares = [Thing("square", "red", x, 0.5, 0.1) for x in (0.2, 0.5)]
    assert found(*squares) == {("square", 2)}
    star, circle = Thing("star", "red", 0.8, 0.5, 0.1), Thing("circle", "red", 0.2, 0.5, 0.1)
    assert found(star, circle) == {
        ("circle", "left of", "star"),
        ("star", "right of", "circle"),
    }
    assert found(word=Word("AJAX", "black", 0.5, 0.5)) == set()
    assert found(word=Word("JAM", "black", 0.5, 0.5)) == {("J", 0)}


def test_a_diagonal_has_both_relations_and_an_axis_one():
    a = Thing("circle", "red", 0.2, 0.2, 0.1)
    assert set(relations_between(a, Thing("star", "red", 0.5, 0.5, 0.1))) == {"left of", "above"}
    assert set(relations_between(a, Thing("star", "red", 0.2, 0.5, 0.1))) == {"above"}
