from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from rectiflow.data.scenes import BACKGROUND, PALETTE


def distance(a, b):
    lab = rgb2lab(np.array([[a, b]], np.uint8))[0]
    return deltaE_ciede2000(lab[0], lab[1])


def test_colors_are_as_far_apart_as_the_checker_needs():
    pairs = {(a, b): distance(PALETTE[a], PALETTE[b]) for a, b in combinations(PALETTE, 2)}
    nearest = sorted(pairs, key=lambda pair: pairs[pair])
    assert nearest[0] == ("blue", "purple")
    assert pairs["blue", "purple"] == pytest.approx(16.9, abs=0.05)
    assert pairs["red", "brown"] == pytest.approx(23.3, abs=0.05)


def test_every_color_stands_out_from_the_background():
    nearest = min(distance(color, BACKGROUND) for color in PALETTE.values())
    assert nearest == pytest.approx(27.0, abs=0.05)
