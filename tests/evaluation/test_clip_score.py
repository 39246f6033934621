import json

import numpy as np
import pytest
import torch
from PIL import Image

from rectiflow.encoders.image import ImageEncoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.evaluation.clip_score import all_cosines, clip_score, own_cosines, text_rows
from rectiflow.evaluation.features import own_clip
from rectiflow.sampling.sources import Source, find_source
from tests.evaluation.pictures import picture_of, some_prompts

PROMPTS = some_prompts(30, offset=5, split="seen")
TEXTS = [prompt["prompt"] for prompt in PROMPTS]
PICTURES = [picture_of(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def clip():
    found = own_clip(find_source("scenes-tiny"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def images(clip):
    return clip.image_features(PICTURES)


def test_true_pairs_beat_shuffled_ones_in_both_directions(clip, images):
    cosines = all_cosines(images, clip.text_features(TEXTS))
    own = cosines.diagonal()
    assert own.mean() > 0.55
    assert (cosines.sum() - cosines.trace()) / (cosines.size - len(cosines)) < 0.2
    assert np.mean(own >= np.quantile(cosines, 0.9, axis=1)) > 0.8  # rows: prompts of a picture
    assert np.mean(own >= np.quantile(cosines, 0.9, axis=0)) > 0.8  # columns: pictures of a prompt


def test_features_are_those_of_the_second_text_encoder_and_the_vision_tower(clip, images):
    """Not normalised; pictures in the range [-1, 1] that the tower was trained on."""
    folder = find_source("scenes-tiny").folder
    text, image = TextEncoders.load(folder), ImageEncoder.load(folder)
    pixels = torch.from_numpy(PICTURES[3]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        seen, said = image(pixels)[0].double(), text.encode([TEXTS[3]]).pooled_g[0].double()
    np.testing.assert_allclose(images[3], seen, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(clip.text_features(TEXTS)[3], said, rtol=1e-3, atol=1e-4)
    assert clip.width == images.shape[1] == 96
    assert abs(np.linalg.norm(images, axis=1).mean() - 1) > 0.5
    by_hand = (seen @ said / seen.norm() / said.norm()).item()
    (measured,) = own_cosines(images[3:4], text_rows(clip, TEXTS[3:4]))
    assert measured == pytest.approx(by_hand, abs=1e-5)
    assert by_hand > 0.5


def test_a_larger_picture_is_scaled_to_the_tower(clip, images):
    large = [np.asarray(Image.fromarray(p).resize((128, 128), 0)) for p in PICTURES[:4]]
    texts = clip.text_features(TEXTS[:4])
    small = all_cosines(images[:4], texts)
    np.testing.assert_allclose(all_cosines(clip.image_features(large), texts), small, atol=0.08)


def test_the_score_stands_beside_its_controls(clip, images):
    right = clip_score(clip, images, TEXTS, PICTURES, TEXTS)
    assert right["mean"] == pytest.approx(right["ground_truth"], abs=1e-6)
    assert right["mean"] > right["shuffled"] + 0.35
    json.dumps(right)
    turned = clip_score(clip, np.roll(images, 1, axis=0), TEXTS, PICTURES, TEXTS)
    assert turned["mean"] < 0.3 < turned["ground_truth"]
    assert turned["ground_truth"] == right["ground_truth"]


def test_the_same_words_are_no_wrong_pair(clip, images):
    twice = [TEXTS[0], TEXTS[0]]
    assert clip_score(clip, images[:2], twice, PICTURES[:1], TEXTS[:1])["shuffled"] is None


def test_the_identity_sees_the_weights_of_either_tower(clip):
    folder = find_source("scenes-tiny").folder
    text, image = TextEncoders.load(folder), ImageEncoder.load(folder)
    seen = {clip.identity(), type(clip)(text, image).identity()}
    assert len(seen) == 1
    with torch.no_grad():
        image.network.visual_projection.weight[0, 0] += 1
    seen.add(type(clip)(text, image).identity())
    with torch.no_grad():
        text.clip_g.text_projection.weight[0, 0] += 1
    seen.add(type(clip)(text, image).identity())
    assert len(seen) == 3


def test_encoders_without_a_vision_tower_have_no_clip(tmp_path):
    assert own_clip(Source("bundle", tmp_path)) is None
