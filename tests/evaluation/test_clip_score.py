import json

import numpy as np
import pytest
import torch
from PIL import Image

from rectiflow.encoders.image import ImageEncoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.evaluation.clip_score import ClipScorer, ScoredDraw
from rectiflow.sampling.sources import Source, find_source
from tests.evaluation.pictures import picture_of, some_prompts

PROMPTS = some_prompts(30, offset=5, split="seen")
TEXTS = [prompt["prompt"] for prompt in PROMPTS]
PICTURES = [picture_of(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def scorer():
    found = ClipScorer.of(find_source("scenes-tiny"))
    assert found is not None
    return found


def test_true_pairs_beat_shuffled_ones_in_both_directions(scorer):
    cosines = scorer.similarities(PICTURES, TEXTS)
    true = cosines.diagonal().mean()
    assert true > 0.55
    assert (cosines.sum() - cosines.trace()) / (cosines.size - len(cosines)) < 0.2
    own = cosines.diagonal()
    assert np.mean(own >= np.quantile(cosines, 0.9, axis=1)) > 0.8  # rows: prompts of a picture
    assert np.mean(own >= np.quantile(cosines, 0.9, axis=0)) > 0.8  # columns: pictures of a prompt


def test_a_cosine_is_that_of_the_second_text_encoder_and_the_vision_tower(scorer):
    """By hand: unit vectors of the two, in the range [-1, 1] that the tower was trained on."""
    folder = find_source("scenes-tiny").folder
    text, image = TextEncoders.load(folder), ImageEncoder.load(folder)
    pixels = torch.from_numpy(PICTURES[3]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        seen, said = image(pixels)[0].double(), text.encode([TEXTS[3]]).pooled_g[0].double()
    by_hand = (seen @ said / seen.norm() / said.norm()).item()
    (measured,) = scorer.similarities(PICTURES[3:4], TEXTS[3:4]).ravel()
    assert measured == pytest.approx(by_hand, abs=1e-5)
    assert by_hand > 0.5


def test_a_larger_picture_is_scaled_to_the_tower(scorer):
    large = [np.asarray(Image.fromarray(p).resize((128, 128), 0)) for p in PICTURES[:4]]
    small = scorer.similarities(PICTURES[:4], TEXTS[:4])
    np.testing.assert_allclose(scorer.similarities(large, TEXTS[:4]), small, atol=0.08)


def test_what_is_drawn_is_scored_with_its_controls(scorer):
    drawn = []

    def draw(prompts, seeds):
        drawn.append((list(prompts), list(seeds)))
        return [PICTURES[seed] for seed in seeds]

    scored = ScoredDraw(draw, scorer)
    half = len(TEXTS) // 2
    order = list(range(len(TEXTS)))
    assert scored(TEXTS[:half], order[:half])[0] is PICTURES[0]
    scored(TEXTS[half:], order[half:])
    assert drawn == [(TEXTS[:half], order[:half]), (TEXTS[half:], order[half:])]
    right = scored.summary(PROMPTS, 64)
    assert right["mean"] == pytest.approx(right["ground_truth"], abs=1e-6)
    assert right["mean"] > right["shuffled"] + 0.35
    json.dumps(right)

    turned = ScoredDraw(lambda prompts, seeds: [PICTURES[s - 1] for s in seeds], scorer)
    turned(TEXTS, order)
    wrong = turned.summary(PROMPTS, 64)
    assert wrong["mean"] < 0.3 < wrong["ground_truth"]


def test_the_same_words_are_no_wrong_pair(scorer):
    scored = ScoredDraw(lambda prompts, seeds: PICTURES[:2], scorer)
    scored([TEXTS[0], TEXTS[0]], [0, 1])
    assert scored.summary(PROMPTS[:1], 64)["shuffled"] is None


def test_encoders_without_a_vision_tower_have_no_score(tmp_path):
    assert ClipScorer.of(Source("bundle", tmp_path)) is None


def test_nothing_cannot_be_compared(scorer):
    with pytest.raises(ValueError, match="got 0 pictures and 1 prompts"):
        scorer.similarities([], TEXTS[:1])
