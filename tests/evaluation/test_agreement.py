"""What the checker accepts, proven on changes whose effect is known beforehand."""

import math

import numpy as np
import pytest

from rectiflow.evaluation import agreement as module
from rectiflow.evaluation.agreement import (
    accepted_in_error,
    agreement,
    blurred,
    shares,
    swaps_accepted,
    turned_round,
)
from rectiflow.evaluation.geneval import judge
from rectiflow.evaluation.scenes_prompts import TAGS, ground_truth, load_prompts
from rectiflow.evaluation.subset import evenly
from rectiflow.evaluation.truth import truth_of

FEW = evenly(load_prompts(), 1)  # one of every task and split


def erased(picture):
    return np.full_like(picture, 128)


def test_right_pictures_agree_and_erased_ones_do_not():
    assert agreement(FEW) == dict.fromkeys(TAGS, 1.0)
    gone = agreement(FEW, change=lambda pictures: [erased(p) for p in pictures])
    assert gone == dict.fromkeys(TAGS, 0.0)


def test_a_change_is_counted_in_the_task_that_it_hurts():
    def erase_words(pictures):
        return [erased(p) if m["tag"] == "text" else p for p, m in zip(pictures, FEW, strict=True)]

    assert agreement(FEW, change=erase_words) == {**dict.fromkeys(TAGS, 1.0), "text": 0.0}


def test_a_change_that_loses_pictures_is_refused():
    with pytest.raises(ValueError, match=f"expected {len(FEW)} pictures, got 1"):
        agreement(FEW, change=lambda pictures: pictures[:1])


def test_shares_are_of_their_own_group():
    outcomes = [("a", True), ("b", False), ("a", False), ("a", True), ("b", False)]
    assert shares(outcomes) == {"a": 2 / 3, "b": 0}


@pytest.mark.parametrize("side", [64, 128])
def test_blur_is_gaussian_and_grows_with_the_picture(side):
    sigma = 0.02
    edge = np.zeros((side, side, 3), np.uint8)
    edge[:, side // 2 :] = 200
    (soft,) = blurred([edge], sigma)
    distance = (np.arange(side) + 0.5 - side / 2) / (sigma * side)
    wanted = [100 * (1 + math.erf(d / math.sqrt(2))) for d in distance]
    # A sum over pixels in place of the integral: 2 levels of 200 at a sigma of 1.28 px.
    assert np.abs(soft[side // 2, :, 0] - wanted).max() < 2
    assert (soft == soft[:1, :, :1]).all()


def test_a_twin_is_false_wherever_its_prompt_is_true():
    """For every committed prompt: what it truly shows satisfies it, and no twin of it."""
    twins = []
    for prompt in load_prompts():
        truth = truth_of(ground_truth(prompt))
        assert judge(truth, prompt).correct
        for what, twin in turned_round(prompt):
            assert not judge(truth, twin).correct, (prompt, twin)
            twins.append(what)
    tags = [prompt["tag"] for prompt in load_prompts()]
    assert twins.count("colors") == tags.count("color_attr")
    assert twins.count("relations") == 2 * tags.count("position")


def test_the_checker_accepts_no_twin_and_no_strangers_picture():
    assert swaps_accepted(FEW) == {"relations": 0, "colors": 0}
    assert accepted_in_error(FEW) == dict.fromkeys(TAGS, 0)


def test_a_checker_that_always_sees_the_same_is_found_out(monkeypatch):
    """It reads a word into every picture, so the prompt of that word accepts all the others."""
    one_each = list({prompt["tag"]: prompt for prompt in FEW}.values())
    word = truth_of(ground_truth(one_each[-1]))
    monkeypatch.setattr(module, "parse", lambda picture, thresholds: word)
    assert accepted_in_error(one_each) == {**dict.fromkeys(TAGS, 0), "text": 1}


def test_a_checker_blind_to_colour_takes_every_swap(monkeypatch):
    class Blind:
        def __init__(self, correct):
            self.correct = self.strict = correct

    monkeypatch.setattr(
        module, "judge", lambda parsed, prompt: Blind(prompt["tag"] == "color_attr")
    )
    assert swaps_accepted(FEW) == {"relations": 0, "colors": 1}
