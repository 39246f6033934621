import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from rectiflow.data.scenes import BACKGROUND, caption, make_scene, render
from rectiflow.data.scenes.glyphs import CAP_HEIGHT, word_width
from rectiflow.data.scenes.layout import KINDS

SCENES = [make_scene(3, i) for i in range(3000)]
GAP = 0.03


def test_a_scene_is_a_pure_function_of_seed_and_index():
    assert [make_scene(3, i) for i in reversed(range(50))] == SCENES[49::-1]
    for i in range(50):
        other = make_scene(4, i)
        assert (other.things, other.word) != (SCENES[i].things, SCENES[i].word)


def test_the_first_scenes_are_the_ones_that_models_were_trained_on():
    digest = hashlib.sha256()
    for i in range(500):
        digest.update(repr((make_scene(0, i), caption(make_scene(0, i)))).encode())
    assert digest.hexdigest()[:16] == "a923173517d45bd7", (
        "the data set changed: shipped models are out of date"
    )


def test_objects_lie_inside_the_picture_and_keep_their_distance():
    for scene in SCENES:
        for thing in scene.things:
            assert 0.10 <= thing.radius <= 0.15
            assert min(thing.x, thing.y) - thing.radius >= 0.01
            assert max(thing.x, thing.y) + thing.radius <= 1 - 0.01
        for a, b in combinations(scene.things, 2):
            along_x, along_y = abs(a.x - b.x), abs(a.y - b.y)
            assert max(along_x, along_y) - a.radius - b.radius >= GAP


def test_pixels_of_different_objects_are_a_gap_apart():
    near = np.ones((7, 7), bool)  # grows each object by 3 of 256 px: 6 < 0.03 * 256 together
    for scene in [scene for scene in SCENES if scene.things][:150]:
        picture = render(scene, 256)
        touched = (picture != np.array(BACKGROUND)).any(axis=2)
        _, num = ndimage.label(ndimage.binary_dilation(touched, near), np.ones((3, 3)))
        assert num == len(scene.things)
        touched[2:-2, 2:-2] = False
        assert not touched.any()


def test_objects_meet_the_grid_of_a_latent_of_factor_8_in_one_way():
    """Cut into blocks of 16 px at the places of the cells, every object of a kind is one block."""
    blocks: dict[tuple[str, str], set[bytes]] = {}
    for scene in [scene for scene in SCENES if scene.things][:300]:
        picture = render(scene, 64)
        for thing in scene.things:
            left, top = int(thing.x * 64) - 8, int(thing.y * 64) - 8
            assert left % 8 == top % 8 == 0
            block = picture[top : top + 16, left : left + 16].tobytes()
            blocks.setdefault((thing.shape, thing.color), set()).add(block)
    assert {len(kinds) for kinds in blocks.values()} == {1}


def test_words_lie_inside_the_picture():
    words = [scene.word for scene in SCENES if scene.word]
    assert {len(word.text) for word in words} == {3, 4, 5}
    for word in words:
        assert abs(word.x - 0.5) + word_width(len(word.text)) / 2 <= 0.5 - 0.02
        assert abs(word.y - 0.5) + CAP_HEIGHT / 2 <= 0.5 - 0.02
    starts = {round(word.x - word_width(len(word.text)) / 2, 9) for word in words}
    assert len(starts) == 1  # letter k of every word lies at one place


def test_kinds_occur_as_often_as_their_weights_say():
    counts = Counter(scene.kind for scene in SCENES)
    assert sum(KINDS.values()) == pytest.approx(1)
    for kind, share in KINDS.items():
        spread = (share * (1 - share) / len(SCENES)) ** 0.5
        assert counts[kind] / len(SCENES) == pytest.approx(share, abs=4 * spread), kind


def test_related_objects_lie_at_least_twice_as_far_along_the_named_axis():
    related = [scene for scene in SCENES if scene.relation]
    assert {scene.relation for scene in related} == {"left of", "right of", "above", "below"}
    for scene in related:
        a, b = scene.things
        dx, dy = a.x - b.x, a.y - b.y
        along, across = (dx, dy) if scene.relation in ("left of", "right of") else (dy, dx)
        assert (along < 0) == (scene.relation in ("left of", "above"))
        assert abs(along) >= 2 * abs(across)


def test_kinds_hold_what_they_are_named_after():
    for scene in SCENES:
        counts = Counter((thing.shape, thing.color) for thing in scene.things)
        shapes = {thing.shape for thing in scene.things}
        assert len(shapes) == len(counts), "two colours of one shape cannot be told by count"
        expected = {
            "single": sorted(counts.values()) == [1],
            "counting": len(counts) == 1 and 2 <= counts.total() <= 5,
            "pair": sorted(counts.values()) == [1, 1],
            "relation": sorted(counts.values()) == [1, 1],
            "count_attr": len(counts) == 2 and 3 <= counts.total() <= 5,
            "word": not counts and scene.word is not None,
        }
        assert expected[scene.kind], scene


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="index must be >= 0, got -1"):
        make_scene(0, -1)
