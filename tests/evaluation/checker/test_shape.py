import numpy as np
import pytest

from rectiflow.data.scenes import SHAPES, Thing, render
from rectiflow.evaluation.checker.segment import Piece, segment
from rectiflow.evaluation.checker.shape import center_of, match, templates
from rectiflow.evaluation.checker.thresholds import DEFAULT
from tests.evaluation.pictures import blurred, scene_of


def matched(picture):
    (found,) = match(segment(picture, DEFAULT).pieces)
    return found


def test_templates_have_zero_mean_and_unit_norm_and_cover_every_shape():
    bank = templates()
    np.testing.assert_allclose(bank.rows.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(bank.rows, axis=1), 1, atol=1e-5)
    assert set(bank.shape) == set(range(len(SHAPES)))


@pytest.mark.parametrize("size_px", [64, 128])
@pytest.mark.parametrize("radius", [0.1, 0.14])
@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_shape_and_radius_survive_blur_far_above_the_threshold(size_px, radius, sigma):
    for shape in SHAPES:
        scene = scene_of(Thing(shape, "purple", 0.41, 0.57, radius))
        found = matched(blurred(render(scene, size_px), sigma))
        assert found.shape == shape
        assert found.score > 0.985
        assert found.margin > 2 * DEFAULT.min_margin
        assert found.radius_px == pytest.approx(radius * size_px, rel=0.08)


def test_the_center_of_mass_is_exact_below_a_pixel():
    rows, columns = np.mgrid[:40, :40] + 0.5
    coverage = np.exp(-((columns - 17.3) ** 2 + (rows - 21.8) ** 2) / 50)
    assert center_of(coverage) == pytest.approx((17.3, 21.8), abs=0.05)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1)])
def test_a_sliver_one_pixel_wide_is_like_no_shape(shape):
    sliver = Piece(0, np.ones(shape, np.float32), np.ones(shape, bool), left=10, top=10)
    (found,) = match([sliver])
    assert found.score == 0
