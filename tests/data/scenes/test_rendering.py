import numpy as np
import pytest

from rectiflow.data.scenes import BACKGROUND, PALETTE, Scene, Thing, Word, make_scene, render
from rectiflow.data.scenes.rendering import _mask

SCENES = [make_scene(5, i) for i in range(200)]


def halved(picture):
    size = picture.shape[0] // 2
    return picture.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))


def test_a_scene_is_the_same_picture_at_64_and_at_128_pixels():
    for scene in SCENES:
        difference = np.abs(halved(render(scene, 128)) - render(scene, 64))
        assert difference.mean() < 1  # of 255; only edge pixels differ, sampled 4 x 4 or 8 x 8
        assert difference.max() <= 255 * 3 / 16


def test_words_are_the_same_picture_up_to_rounding():
    for scene in [scene for scene in SCENES if scene.word]:
        difference = np.abs(halved(render(scene, 128)) - render(scene, 64))
        assert difference.max() <= 1


@pytest.mark.parametrize("size_px", [48, 64, 96, 128])
def test_centers_of_mass_lie_where_the_scene_says(size_px):
    for shape in ("circle", "square", "star", "cross", "ring"):
        thing = Thing(shape, "white", 0.37, 0.61, 0.13)
        weight = render(Scene(0, 0, "single", (thing,)), size_px)[:, :, 0].astype(float) - 128
        rows, columns = np.indices(weight.shape) + 0.5
        center = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        np.testing.assert_allclose(center, np.array([0.37, 0.61]) * size_px, atol=0.25)


def test_pixels_inside_have_the_color_of_the_palette_and_edges_mix_it():
    for color, value in PALETTE.items():
        picture = render(Scene(0, 0, "single", (Thing("circle", color, 0.5, 0.5, 0.125),)))
        assert tuple(picture[32, 32]) == value
        assert tuple(picture[2, 2]) == BACKGROUND
        low, high = np.minimum(value, BACKGROUND), np.maximum(value, BACKGROUND)
        assert (picture >= low).all()
        assert (picture <= high).all()


def test_what_lies_beyond_the_picture_is_cut_off():
    whole = render(Scene(0, 0, "", (Thing("circle", "red", 0.5, 0.5, 0.125),)))
    for x, y in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (1.5, 0.5)]:
        picture = render(Scene(0, 0, "", (Thing("circle", "red", x, y, 0.125),)))
        dx, dy = round((x - 0.5) * 64), round((y - 0.5) * 64)
        expected = np.full((64, 64, 3), BACKGROUND, np.uint8)
        source = np.pad(whole, ((64, 64), (64, 64), (0, 0)))
        source = source[64 - dy : 128 - dy, 64 - dx : 128 - dx]
        expected[source.any(axis=2)] = source[source.any(axis=2)]
        np.testing.assert_array_equal(picture, expected)


def test_later_objects_cover_earlier_ones():
    things = tuple(Thing("square", color, 0.5, 0.5, 0.125) for color in ("red", "blue"))
    assert tuple(render(Scene(0, 0, "", things))[32, 32]) == PALETTE["blue"]


def test_words_are_drawn_in_their_color():
    scene = Scene(0, 0, "word", (), Word("EEE", "black", 0.5, 0.5))
    assert tuple(render(scene, 128).min(axis=(0, 1))) == PALETTE["black"]
    assert tuple(render(scene, 128).max(axis=(0, 1))) == BACKGROUND


def test_shared_masks_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        _mask("circle", 30, 0, 0)[0, 0] = 1


def test_a_picture_too_small_for_its_shapes_is_refused():
    with pytest.raises(ValueError, match="size_px must be >= 32, got 16"):
        render(SCENES[0], 16)
