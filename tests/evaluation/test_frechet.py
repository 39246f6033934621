import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from rectiflow.evaluation.bootstrap import bootstrap_means, resampled
from rectiflow.evaluation.frechet import (
    FewPicturesWarning,
    Moments,
    bootstrap_frechet,
    frechet_distance,
    stream_moments,
)

RNG = np.random.default_rng(7)


def gaussian(mean, covariance, num=1000):
    return Moments(num, np.asarray(mean, float), (num - 1) * np.asarray(covariance, float))


def features(num, width=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def test_commuting_covariances_have_a_closed_form():
    a, b = np.array([4.0, 1.0, 9.0]), np.array([1.0, 16.0, 0.25])
    turn, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    first = gaussian([1, 2, 3], turn @ np.diag(a) @ turn.T)
    second = gaussian([1, 0, 4], turn @ np.diag(b) @ turn.T)
    expected = (2**2 + 1**2) + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute_have_one_in_two_dimensions():
    """There the trace of the root of M is the root of tr M + 2 root(det M)."""
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    assert not np.allclose(a @ b, b @ a)
    common = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = 9 + np.trace(a) + np.trace(b) - 2 * common
    first, second = gaussian([3, 0], a), gaussian([0, 0], b)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances_are_no_trouble():
    """Of rank one, the root's trace is the product of the two directions' lengths and cosine."""
    u, v = RNG.normal(size=6), RNG.normal(size=6)
    expected = u @ u + v @ v - 2 * abs(u @ v)
    first, second = gaussian(np.zeros(6), np.outer(u, u)), gaussian(np.zeros(6), np.outer(v, v))
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_that_of_torchmetrics_with_the_same_features():
    class Tiny(nn.Module):
        num_features = 12

        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.weight = torch.randn(3 * 8 * 8, 12, generator=generator, dtype=torch.float64)

        def forward(self, image_u8):
            return (image_u8.double().flatten(1) / 255 @ self.weight).tanh()

    tiny = Tiny()
    theirs = FrechetInceptionDistance(feature=tiny, input_img_size=(3, 8, 8))
    ours = []
    for is_real, top, num in ((True, 256, 90), (False, 200, 70)):
        pictures = torch.from_numpy(RNG.integers(0, top, (num, 3, 8, 8), dtype=np.uint8))
        for part in pictures.split(32):
            theirs.update(part, real=is_real)
        ours.append(stream_moments(tiny(part).numpy() for part in pictures.split(25)))
    expected = theirs.compute().item()
    assert expected > 0.5
    assert frechet_distance(ours[1], ours[0]) == pytest.approx(expected, abs=1e-6)


def test_a_stream_of_batches_has_the_moments_of_the_whole():
    values = features(100) + 1e4  # an offset that sums of squares would lose digits to
    streamed = stream_moments(np.split(values, [1, 2, 40, 99]))
    assert streamed.num == 100
    np.testing.assert_allclose(streamed.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance, np.cov(values.T), rtol=1e-9)
    single = Moments.of(values.astype(np.float32))
    assert single.mean.dtype == single.scatter.dtype == np.float64


def test_a_shift_adds_its_square_and_a_scale_multiplies_by_its_own():
    """So features are taken as they are: normalised ones would not see a scale."""
    values, others = features(50), features(60, seed=1)
    base = frechet_distance(Moments.of(values), Moments.of(others))
    same = Moments.of(values)
    shift = np.array([1.0, -2.0, 0.0, 3.0, 0.5])
    assert frechet_distance(Moments.of(values + shift), same) == pytest.approx(14.25, abs=1e-6)
    scaled = frechet_distance(Moments.of(3 * values), Moments.of(3 * others))
    assert scaled == pytest.approx(9 * base, rel=1e-9)


def test_more_pictures_of_the_same_law_are_nearer():
    law = np.random.default_rng(3)
    reference = Moments.of(law.normal(size=(20_000, 16)))
    few, many = (
        frechet_distance(Moments.of(law.normal(size=(num, 16))), reference) for num in (50, 5000)
    )
    assert many < 0.1 < few


def test_too_few_pictures_for_the_width_are_told_with_numbers():
    reference = Moments.of(features(30))
    message = r"5 features needs more than 5 pictures on each side, got 5 and 30 of reference"
    with pytest.warns(FewPicturesWarning, match=message):
        frechet_distance(Moments.of(features(5)), reference)
    with pytest.warns(FewPicturesWarning, match="got 30 and 4 of reference"):
        frechet_distance(reference, Moments.of(features(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(Moments.of(features(6)), reference)


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match="one width on both sides, got 5 and 4"):
        frechet_distance(Moments.of(features(9)), Moments.of(features(9, width=4)))
    with pytest.raises(ValueError, match="at least 2 pictures, got 1"):
        _ = Moments.of(features(1)).covariance
    with pytest.raises(ValueError, match="at least one picture, got none"):
        Moments.of(np.zeros((0, 5)))
    with pytest.raises(ValueError, match="at least one picture, got none"):
        stream_moments([])
    with pytest.raises(ValueError, match="must be finite"):
        Moments.of(np.array([[1.0, np.nan]]))


def test_counts_are_pictures_that_stand_there_so_often():
    values, counts = features(6), np.array([3, 0, 1, 1, 0, 2])
    weighted, repeated = Moments.of(values, counts), Moments.of(values.repeat(counts, axis=0))
    assert weighted.num == repeated.num == 7
    np.testing.assert_allclose(weighted.mean, repeated.mean)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance)


def test_a_replicate_is_a_function_of_its_number_and_of_the_number_of_prompts():
    some, more = resampled(range(40), 5), resampled(range(40), 9)
    assert some.shape == (5, 40)
    assert (more[:5] == some).all()
    assert (some.sum(1) == 40).all()
    assert len({tuple(row) for row in more}) == 9
    twice = resampled([*range(40), *range(40)], 5)  # pictures of a prompt go together
    assert (twice == np.concatenate([some, some], axis=1)).all()


def test_replicates_spread_as_the_mean_of_other_prompts_would():
    values = RNG.normal(2, 3, 400)
    means = bootstrap_means(values, resampled(range(400), 500))
    assert np.mean(means) == pytest.approx(values.mean(), abs=0.03)
    assert np.std(means) == pytest.approx(values.std() / 20, rel=0.1)


def test_a_replicate_of_the_distance_is_that_of_its_pictures():
    values, reference = features(40), Moments.of(features(300, seed=4))
    counts = resampled(range(40), 3)
    distances = bootstrap_frechet(values, reference, counts)
    by_hand = [frechet_distance(Moments.of(values.repeat(n, axis=0)), reference) for n in counts]
    assert distances == pytest.approx(by_hand, rel=1e-10)
    assert np.std(distances) > 0


def test_a_bootstrap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0 pictures and 3 replicates"):
        resampled([], 3)
    with pytest.raises(ValueError, match="got 2 pictures and 0 replicates"):
        resampled([0, 1], 0)
