import numpy as np
import pytest
from skimage.color import rgb2lab

from rectiflow.data.scenes import BACKGROUND, PALETTE
from rectiflow.evaluation.checker.color import NAMES, coverage_of, rays_from, to_lab


def test_lab_agrees_with_scikit_image():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_allclose(to_lab(image), rgb2lab(image), atol=0.05)


def test_white_and_black_are_the_ends_of_lightness():
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    np.testing.assert_allclose(to_lab(ends), [[0, 0, 0], [100, 0, 0]], atol=0.02)


@pytest.mark.parametrize("reach", [0.6, 0.8, 1.0])
def test_a_palette_color_keeps_its_name_part_of_the_way_from_the_background(reach):
    origin = np.array(BACKGROUND)
    for i, rgb in enumerate(PALETTE.values()):
        mixed = np.rint(origin + reach * (np.array(rgb) - origin)).astype(np.uint8)
        color, found_reach, distance = rays_from(BACKGROUND).nearest(to_lab(mixed[None]))
        assert NAMES[color[0]] == NAMES[i]
        assert found_reach[0] == pytest.approx(reach, abs=0.06)
        assert distance[0] < 6


def test_a_choice_among_few_colors_stays_among_them():
    red = to_lab(np.array([PALETTE["red"]], np.uint8))
    among = (NAMES.index("blue"), NAMES.index("brown"))
    color, _, _ = rays_from(BACKGROUND).nearest(red, among)
    assert NAMES[color[0]] == "brown"


def test_coverage_is_the_mixing_ratio():
    color = NAMES.index("yellow")
    origin, end = np.array(BACKGROUND, float), np.array(PALETTE["yellow"], float)
    ratios = np.linspace(0, 1, 7)
    mixed = np.rint(origin + ratios[:, None] * (end - origin)).astype(np.uint8)[None]
    np.testing.assert_allclose(coverage_of(mixed, BACKGROUND, color)[0], ratios, atol=0.005)
