from itertools import combinations

import numpy as np
import pytest

from rectiflow.data.scenes import GLYPHS
from rectiflow.data.scenes.glyphs import word_coverage, word_width


def test_letters_differ_in_at_least_three_cells():
    assert list(GLYPHS) == [chr(ord("A") + i) for i in range(26)]
    assert all(glyph.shape == (7, 5) for glyph in GLYPHS.values())
    for a, b in combinations(GLYPHS, 2):
        assert np.count_nonzero(GLYPHS[a] != GLYPHS[b]) >= 3, (a, b)


def test_every_letter_fills_its_box():
    for letter, glyph in GLYPHS.items():
        assert glyph.any(axis=1).all(), letter
        assert glyph.any(axis=0).sum() == 5 or letter == "J", letter


def test_five_letters_fit_into_the_picture():
    assert word_width(3) == pytest.approx(18 / 35)
    assert word_width(5) == pytest.approx(31 / 35)


@pytest.mark.parametrize("size_px", [64, 100, 128])
def test_coverage_adds_up_to_the_area_of_the_cells(size_px):
    num_cells = sum(GLYPHS[letter].sum() for letter in "QUEEN")
    coverage = word_coverage("QUEEN", (0.51, 0.48), size_px)
    assert coverage.sum() == pytest.approx(num_cells * (size_px / 35) ** 2, rel=1e-5)
    assert coverage.max() <= 1 + 1e-6


def test_a_word_at_seventy_pixels_shows_the_bitmaps_of_its_letters():
    # One cell is 2 px there and a pitch is 13 px, so "HI" is 23 px wide and 14 px tall; half a
    # pixel to the right of the middle its edges are those of pixels.
    coverage = word_coverage("HI", (35.5 / 70, 0.5), 70)
    for letter, left in (("H", 24), ("I", 37)):
        shown = coverage[28:42, left : left + 10]
        np.testing.assert_allclose(shown, GLYPHS[letter].repeat(2, 0).repeat(2, 1), atol=1e-5)


@pytest.mark.parametrize("text", ["", "cat", "A B", "O0"])
def test_refuses_what_the_font_lacks(text):
    with pytest.raises(ValueError, match="capital letters A-Z"):
        word_coverage(text, (0.5, 0.5), 64)
