import numpy as np
import pytest
from scipy import ndimage

from rectiflow.data.scenes import Thing, render
from rectiflow.evaluation.checker.color import NAMES
from rectiflow.evaluation.checker.segment import median_of_nine, segment
from rectiflow.evaluation.checker.thresholds import DEFAULT
from tests.evaluation.pictures import blurred, scene_of, to_bytes


def test_the_exchange_network_is_the_median():
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3)).astype(np.uint8)
    expected = ndimage.median_filter(image, size=(3, 3, 1), mode="nearest")
    np.testing.assert_array_equal(median_of_nine(image), expected)


@pytest.mark.parametrize("size_px", [64, 128])
def test_blur_does_not_move_the_edge_of_a_disc(size_px):
    picture = render(scene_of(Thing("circle", "blue", 0.5, 0.5, 0.14)), size_px)
    for image in (picture, blurred(picture, 0.02)):
        (piece,) = segment(image, DEFAULT).pieces
        assert piece.area == pytest.approx(np.pi * (0.14 * size_px) ** 2, rel=0.05)
        np.testing.assert_allclose(piece.box, np.array([0.36, 0.36, 0.64, 0.64]) * size_px, atol=1)


def test_touching_objects_of_two_colors_come_apart_and_leave_no_rim():
    for one, other in (("red", "yellow"), ("blue", "pink"), ("black", "white")):
        things = Thing("square", one, 0.38, 0.5, 0.13), Thing("square", other, 0.6, 0.5, 0.13)
        pieces = segment(blurred(render(scene_of(*things)), 0.01), DEFAULT).pieces
        assert sorted(NAMES[p.color] for p in pieces) == sorted([one, other])


def test_the_background_may_be_a_little_off():
    picture = render(scene_of(Thing("ring", "green", 0.5, 0.5, 0.14))).astype(float)
    shifted = to_bytes(picture + np.array([8, -6, 10]))
    (piece,) = segment(shifted, DEFAULT).pieces
    assert NAMES[piece.color] == "green"
    assert segment(shifted, DEFAULT).background == (136, 122, 138)


def test_a_region_of_many_colors_has_no_color():
    picture = np.full((64, 64, 3), 128, np.uint8)
    patch = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    picture[20:40, 20:40] = patch
    assert all(p.color is None for p in segment(picture, DEFAULT).pieces if p.area > 40)
