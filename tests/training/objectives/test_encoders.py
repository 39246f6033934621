import math

import numpy as np
import pytest
import torch

from rectiflow.data.draws import Draws
from rectiflow.encoders.image import ImageEncoder
from rectiflow.encoders.pretraining import OFFSETS, EncodersInTraining
from rectiflow.encoders.settings import EncodersModel
from rectiflow.encoders.text import TextEncoders
from rectiflow.training.objectives.encoders import (
    EncodersObjective,
    chosen_captions,
    contrastive_loss,
    denoising_loss,
    same_rows,
    words_loss,
)
from rectiflow.training.settings.objectives import EncodersLoss

MODEL = EncodersModel(
    clip_l_width=32,
    clip_g_width=32,
    t5_width=64,
    clip_layers=2,
    t5_layers=1,
    vision_width=32,
    vision_layers=1,
)
COLORS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


def objective(**settings):
    text = TextEncoders.new(MODEL, [f"a {color} square" for color in COLORS], seed=1)
    model = EncodersInTraining(text, ImageEncoder.new(MODEL, size_px=16, seed=2), seed=3)
    return EncodersObjective(model, EncodersLoss(**settings), synthetic_fraction=0.5)


def batch(colors=tuple(COLORS)):
    image = torch.tensor([COLORS[color] for color in colors]).float()[:, :, None, None]
    return {
        "image": image.expand(-1, 3, 16, 16),
        "captions": [{"caption": f"a {color} square"} for color in colors],
    }


def draws(num=4, first=0):
    return Draws(5, np.arange(first, first + num))


def test_contrast_of_two_pairs_in_closed_form():
    logits = torch.tensor([[2.0, 1.0], [-1.0, 0.5]])
    same = torch.eye(2, dtype=torch.bool)

    def softplus(x):
        return math.log1p(math.exp(x))

    # A choice between two is -log sigmoid(right - wrong): rows 2-1, 0.5+1, columns 2+1, 0.5-1.
    expected = [(softplus(-1) + softplus(-3)) / 2, (softplus(-1.5) + softplus(0.5)) / 2]
    assert contrastive_loss(logits, same).tolist() == pytest.approx(expected)


def test_a_repeated_caption_is_no_wrong_answer():
    logits = torch.tensor([[9.0, 9.0, 0.0], [9.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    blind = contrastive_loss(logits, torch.eye(3, dtype=torch.bool))
    aware = contrastive_loss(logits, same)
    assert blind[0] > math.log(2)  # it cannot tell the two equal captions apart
    assert aware[0].item() == pytest.approx(math.log1p(math.exp(-9)), rel=1e-3)
    assert aware[2].item() == pytest.approx(math.log1p(2 * math.exp(-9)), rel=1e-3)


def test_equal_captions_are_found_by_their_ids():
    ids = torch.tensor([[1, 2], [1, 3], [1, 2]])
    assert same_rows(ids).int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_denoising_counts_the_tokens_around_each_place_and_no_padding():
    ids, padding = torch.tensor([[3, 4, 0, 0], [3, 4, 5, 6]]), 0
    vocabulary = 7
    even = torch.zeros(2, 4, len(OFFSETS), vocabulary)
    torch.testing.assert_close(
        denoising_loss(even, ids, padding), torch.full((2,), math.log(vocabulary))
    )
    # A head that names every neighbour with certainty has loss 0; one wrong of the first caption's
    # four targets (each of two tokens from two places) costs a quarter of its margin.
    right = even.clone()
    for sample in range(2):
        for place in range(4):
            for k, offset in enumerate(OFFSETS):
                if 0 <= place + offset < 4:
                    right[sample, place, k, ids[sample, place + offset]] = 50.0
    assert denoising_loss(right, ids, padding).tolist() == pytest.approx([0, 0], abs=1e-6)
    right[0, 1, OFFSETS.index(-1), 5] = 100.0
    assert denoising_loss(right, ids, padding).tolist() == pytest.approx([50 / 4, 0], abs=1e-4)


def test_captions_are_drawn_at_the_given_rate_and_by_position():
    pairs = [{"alt": "short", "synthetic": "long"}] * 4000
    chosen = chosen_captions(pairs, draws(4000), 0.3)
    assert chosen.count("long") / 4000 == pytest.approx(0.3, abs=0.03)  # 4 standard errors
    assert chosen_captions(pairs[100:], draws(3900, first=100), 0.3) == chosen[100:]
    assert chosen_captions([{"caption": "only"}] * 4, draws(), 0.5) == ["only"] * 4


def test_words_of_a_caption_in_equal_shares_cost_nothing_and_others_their_margin():
    ids, padding = torch.tensor([[3, 4, 4, 0], [5, 1, 2, 3]]), 0
    even = torch.zeros(2, 2, 8)
    assert words_loss(even, ids, padding).tolist() == pytest.approx([math.log(4), math.log(2)])
    right = torch.full((2, 2, 8), -50.0)
    for sample, held in enumerate(({3, 4}, {1, 2, 3, 5})):
        right[:, sample, list(held)] = 0.0
    assert words_loss(right, ids, padding).tolist() == pytest.approx([0, 0], abs=1e-6)
    right[1, 0, 7] = 50.0  # one of the two predictions is sure of an absent word
    assert words_loss(right, ids, padding)[0].item() == pytest.approx((50 - math.log(2)) / 2)


def test_loss_is_the_sum_of_two_contrasts_and_the_weighted_other_terms():
    made = objective(denoising_weight=0.25, words_weight=0.5, recall_weight=2.0)
    terms = made.loss(batch(), draws())
    extra = terms.extra
    expected = extra["clip_l"] + extra["clip_g"] + 0.25 * extra["denoising"]
    expected = expected + 0.5 * extra["words"] + 2.0 * extra["recall"]
    torch.testing.assert_close(terms.loss, expected)
    assert terms.loss.shape == (4,)
    assert set(extra) == {"clip_l", "clip_g", "denoising", "words", "recall"}
    ids_l, ids_g, _ = made.model.text.tokenize([c["caption"] for c in batch()["captions"]])
    towers = made.model.embed(batch()["image"], ids_l, ids_g)
    for vectors in (towers.text_l, towers.text_g, towers.image_l, towers.image_g):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    logits = towers.image_g @ towers.text_g.T / 0.07
    torch.testing.assert_close(
        extra["clip_g"], contrastive_loss(logits, torch.eye(4, dtype=torch.bool)).detach()
    )


def test_hidden_tokens_reach_t5_as_sentinels_and_padding_never_does():
    made = objective(hidden_fraction=1.0)
    ids = made.model.text.tokenize(["a red square", "red"])[2]
    hidden = made._hidden(ids, draws(2))
    assert torch.equal(hidden, ids != 0)
    none = objective(hidden_fraction=0.0)._hidden(ids, draws(2))
    assert not none.any()
    shown = made.model.restore(ids, none)
    covered = made.model.restore(ids, hidden)
    assert not torch.allclose(shown, covered)
    # All words hidden, two captions of one length are the same to T5.
    other = made.model.text.tokenize(["a blue square", "red"])[2]
    torch.testing.assert_close(made.model.restore(other, hidden), covered)


def test_gradient_reaches_every_parameter_that_is_kept():
    made = objective(hidden_fraction=0.3)
    made.loss(batch(), draws()).loss.mean().backward()
    unused = {
        name for name, p in made.model.named_parameters() if p.grad is None or not p.grad.any()
    }
    assert unused == set()


def test_towers_learn_to_match_colours_with_their_names():
    made = objective()
    model = made.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        loss = made.loss(batch(), draws(4, first=4 * step)).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    terms = made.loss(batch(), draws()).extra
    assert terms["clip_l"].max() < 0.1  # chance is log 4 = 1.39
    assert terms["clip_g"].max() < 0.1
    assert terms["denoising"].max() < 1.5  # colours stay a guess where hidden
