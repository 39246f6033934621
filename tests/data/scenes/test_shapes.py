import math

import numpy as np
import pytest

from rectiflow.data.scenes import SHAPES, shape_coverage

# Areas in units of the squared radius, from elementary geometry.
AREAS = {
    "circle": math.pi,
    "square": 4 * 0.88**2,
    "triangle": (0.92 + 0.82) * 2 / 2,
    "star": 5 * 0.42 * math.sin(math.pi / 5),
    "cross": 4 * (2 * 0.34) - (2 * 0.34) ** 2,
    "ring": math.pi * (1 - 0.55**2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_adds_up_to_the_area_of_the_shape(shape):
    coverage = shape_coverage(shape, 40.0, (50.3, 49.6), (100, 101))
    # A straight edge along the pixels may be off by half a sample, 1/8 px: 10 px for the longest.
    assert coverage.sum() == pytest.approx(AREAS[shape] * 40.0**2, abs=10)
    assert coverage.min() == 0
    assert coverage.max() == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_within_their_radius_along_each_axis(shape):
    rows, columns = np.nonzero(shape_coverage(shape, 20.0, (32.0, 32.0), (64, 64)))
    assert min(rows.min(), columns.min()) >= 12
    assert max(rows.max(), columns.max()) <= 51


@pytest.mark.parametrize(
    ("shape", "angle"),
    [
        ("square", math.pi / 2),
        ("cross", math.pi / 2),
        ("star", 2 * math.pi / 5),
        ("circle", 1.0),
        ("ring", 1.0),
    ],
)
def test_turning_a_shape_by_its_symmetry_changes_nothing_but_rounding(shape, angle):
    straight, turned = (
        shape_coverage(shape, 20.0, (32.1, 31.7), (64, 64), angle=a) for a in (0.0, angle)
    )
    assert np.abs(straight - turned).mean() < 2e-3


def test_positive_angles_turn_clockwise():
    tip = shape_coverage("triangle", 20.0, (32.0, 32.0), (64, 64), angle=math.pi / 2)
    columns = tip.sum(axis=0)
    assert columns[15] > 3 * columns[48]  # the base now stands left, the tip points right


@pytest.mark.parametrize(
    ("shape", "radius", "message"),
    [("hexagon", 5.0, "shape must be one of circle"), ("circle", 0.0, "radius_px must be > 0")],
)
def test_refuses_what_has_no_coverage(shape, radius, message):
    with pytest.raises(ValueError, match=message):
        shape_coverage(shape, radius, (8.0, 8.0), (16, 16))
