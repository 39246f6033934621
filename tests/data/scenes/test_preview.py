import numpy as np
import pytest

from rectiflow.data.scenes import make_scene, render
from rectiflow.data.scenes.preview import MARGIN_PX, PICTURE_PX, contact_sheet


def test_a_sheet_shows_each_scene_once_in_order():
    sheet = np.asarray(contact_sheet(seed=0, num=5, start=7, columns=3))
    tall = sheet.shape[0] // 2
    for place in range(5):
        left = MARGIN_PX + place % 3 * (PICTURE_PX + MARGIN_PX)
        top = MARGIN_PX + place // 3 * (tall - MARGIN_PX // 2)
        shown = sheet[top : top + PICTURE_PX, left : left + PICTURE_PX]
        np.testing.assert_array_equal(shown, render(make_scene(0, 7 + place), PICTURE_PX))
        below = sheet[top + PICTURE_PX : top + PICTURE_PX + 60, left : left + PICTURE_PX]
        assert (below.min(axis=2) < 128).mean() > 0.02, "no captions under the picture"


@pytest.mark.parametrize(("num", "columns"), [(0, 6), (4, 0)])
def test_an_empty_sheet_is_refused(num, columns):
    with pytest.raises(ValueError, match="must be >= 1"):
        contact_sheet(0, num, columns=columns)
