import dataclasses

import numpy as np
import pytest

from rectiflow.errors import DataError
from rectiflow.evaluation.frechet import Moments, frechet_distance
from rectiflow.evaluation.reference import TrueScenes, reference_of
from tests.evaluation.pictures import picture_of, some_prompts

PROMPTS = some_prompts(60, split="seen")
SCENES = TrueScenes(PROMPTS, 70, 32)


class CountingClip:
    """Mean colours as features, and how many pictures it was asked for."""

    name, width = "mean colours", 3

    def __init__(self, scale=1.0):
        self.scale, self.num_asked = scale, 0

    def image_features(self, pictures):
        self.num_asked += len(pictures)
        return np.stack([self.scale * p.mean((0, 1)) for p in pictures]).astype(np.float32)

    def text_features(self, prompts):
        raise NotImplementedError

    def identity(self):
        return f"mean colours times {self.scale}"


def test_true_scenes_show_the_prompts_in_turn_each_time_anew():
    first = list(SCENES)
    assert len(first) == len(SCENES) == 70
    assert (first[2] == picture_of(PROMPTS[2], 32)).all()
    assert len({picture.tobytes() for picture in first}) > 50
    later = TrueScenes(PROMPTS, 10, 32, first=60)
    assert (list(later)[3] == first[63]).all()


def test_moments_are_those_of_all_pictures_and_read_back_bit_for_bit(tmp_path):
    clip = CountingClip()
    made = reference_of(clip, SCENES, tmp_path)
    expected = Moments.of(CountingClip().image_features(list(SCENES)))
    assert frechet_distance(made.moments, expected) == pytest.approx(0, abs=1e-9)
    assert made.moments.num == clip.num_asked == 70
    read = reference_of(clip, SCENES, tmp_path)
    assert clip.num_asked == 70
    assert read.hash == made.hash
    assert (read.moments.mean == made.moments.mean).all()
    assert (read.moments.scatter == made.moments.scatter).all()


@pytest.mark.parametrize(
    "change", [{"num": 71}, {"size_px": 64}, {"first": 1}, {"prompts": PROMPTS[1:]}]
)
def test_other_pictures_have_moments_of_their_own(change, tmp_path):
    kept = reference_of(CountingClip(), SCENES, tmp_path)
    clip, other = CountingClip(), dataclasses.replace(SCENES, **change)
    assert reference_of(clip, other, tmp_path).hash != kept.hash
    assert clip.num_asked == len(other)


def test_other_features_have_moments_of_their_own(tmp_path):
    kept = reference_of(CountingClip(), SCENES, tmp_path)
    other = reference_of(CountingClip(scale=2.0), SCENES, tmp_path)
    np.testing.assert_allclose(other.moments.mean, 2 * kept.moments.mean, rtol=1e-6)


def test_scenes_that_are_drawn_otherwise_have_moments_of_their_own(tmp_path, monkeypatch):
    kept = reference_of(CountingClip(), SCENES, tmp_path)
    monkeypatch.setattr(
        "rectiflow.evaluation.reference.render", lambda scene, size: np.zeros((4, 4, 3), np.uint8)
    )
    other = reference_of(CountingClip(), SCENES, tmp_path)
    assert other.hash != kept.hash
    assert not other.moments.mean.any()


def test_a_file_of_something_else_under_the_name_is_not_believed(tmp_path):
    small = TrueScenes(PROMPTS, 5, 32)
    reference_of(CountingClip(), SCENES, tmp_path)
    (first,) = tmp_path.iterdir()
    reference_of(CountingClip(), small, tmp_path)
    (second,) = set(tmp_path.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    clip = CountingClip()
    assert reference_of(clip, small, tmp_path).moments.num == clip.num_asked == 5
    assert reference_of(CountingClip(), small, tmp_path).moments.num == 5


def test_a_damaged_file_is_told(tmp_path):
    reference_of(CountingClip(), SCENES, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match=rf"{file.name} is damaged, delete it"):
        reference_of(CountingClip(), SCENES, tmp_path)


def test_no_scenes_are_refused():
    with pytest.raises(ValueError, match="got 0 prompts and 3 pictures"):
        TrueScenes([], 3, 64)
    with pytest.raises(ValueError, match="got 10 prompts and 0 pictures"):
        TrueScenes(PROMPTS[:10], 0, 64)
