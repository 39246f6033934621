import json

import numpy as np
import pytest

from rectiflow.evaluation.features import own_clip
from rectiflow.evaluation.frechet import FewPicturesWarning, Moments, frechet_distance
from rectiflow.evaluation.measures import RememberedPictures, clip_measures, measure_pictures
from rectiflow.sampling.sources import find_source
from tests.evaluation.pictures import picture_of, some_prompts

RNG = np.random.default_rng(1)
TEXTS = RNG.normal(size=(60, 8)).astype(np.float32)
REFERENCE = Moments.of(RNG.normal(size=(500, 8)))


def measured(images, **arguments):
    return measure_pictures(images, TEXTS, REFERENCE, **arguments)


def test_the_measures_are_the_mean_cosine_and_the_distance():
    images = (TEXTS + RNG.normal(size=TEXTS.shape)).astype(np.float32)
    found = measured(images, num_replicates=4)
    cosines = [
        i @ t / np.linalg.norm(i) / np.linalg.norm(t) for i, t in zip(images, TEXTS, strict=True)
    ]
    assert found["num_pictures"] == 60
    assert found["clip"] == pytest.approx(np.mean(cosines), rel=1e-4)
    expected = frechet_distance(Moments.of(images), REFERENCE)
    assert found["frechet"] == pytest.approx(expected, rel=1e-4)
    assert found["frechet"] == float(f"{expected:.5g}")
    assert {len(values) for values in found["bootstrap"].values()} == {4}
    json.dumps(found)


def test_pictures_of_another_scale_have_the_same_clip_score_and_another_distance():
    found, longer = measured(TEXTS), measured(3 * TEXTS)
    assert found["clip"] == longer["clip"] == 1.0
    assert longer["frechet"] > 2 * found["frechet"]


def test_replicates_of_two_models_pair():
    """The same prompts stand in replicate b of both, so the easy ones cancel in a difference."""
    easy = RNG.uniform(-1, 1, 60)[:, None]
    noise = RNG.normal(size=TEXTS.shape)
    first = (easy * TEXTS + 0.3 * noise).astype(np.float32)
    second = (easy * TEXTS + 0.3 * noise + 0.05 * TEXTS).astype(np.float32)
    one, other = (np.array(measured(each)["bootstrap"]["clip"]) for each in (first, second))
    assert len(one) == 100
    assert (other > one).all()
    assert (other - one).std() < one.std() / 3


def test_pictures_of_one_prompt_are_resampled_together():
    pairs = np.repeat(TEXTS[:10], 2, axis=0)
    images = pairs.copy()
    images[1::2] *= -1  # one picture of each prompt is right, the other its opposite
    prompts = np.repeat(np.arange(10), 2).tolist()
    found = measure_pictures(images, pairs, REFERENCE, prompt_of_picture=prompts)
    assert found["bootstrap"]["clip"] == pytest.approx([0.0] * 100, abs=1e-7)


def test_too_few_pictures_are_told_once_not_for_every_replicate():
    with pytest.warns(FewPicturesWarning, match="got 8 and 500") as told:
        measure_pictures(TEXTS[:8], TEXTS[:8], REFERENCE)
    assert len(told) == 1


def test_a_picture_without_its_prompt_is_refused():
    with pytest.raises(ValueError, match="each picture needs its prompt, got 3 and 60"):
        measured(TEXTS[:3])


def test_the_measures_of_a_model_stand_beside_those_of_true_scenes(tmp_path):
    clip = own_clip(find_source("scenes-tiny"))
    asked = some_prompts(6, split="seen")
    seen = RememberedPictures()
    for prompt in asked:
        seen([prompt["prompt"]], [picture_of(prompt)])
    arguments = {"num_reference": 200, "cache": tmp_path}
    right = clip_measures(clip, seen.pictures, seen.prompts, asked, 64, **arguments)
    assert right["features"] == {"name": clip.name, "width": 96, "hash": clip.identity()}
    assert right["clip_score"]["mean"] == pytest.approx(right["clip_score"]["ground_truth"])
    found = right["frechet"]
    assert (found["num_pictures"], found["num_reference"]) == (len(asked), 200)
    assert found["distance"] < found["ground_truth"]  # the reference holds these very pictures
    inverted = [255 - picture for picture in seen.pictures]
    wrong = clip_measures(clip, inverted, seen.prompts, asked, 64, **arguments)
    assert wrong["frechet"]["distance"] > 4 * found["ground_truth"]
    assert wrong["frechet"]["ground_truth"] == found["ground_truth"]
    assert len(list(tmp_path.iterdir())) == 1
    assert "frechet" not in clip_measures(clip, seen.pictures, seen.prompts, asked, 64)
    json.dumps(right)
