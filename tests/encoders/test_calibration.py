import pytest
import torch
from torch.nn import functional

from rectiflow.encoders.calibration import normalise_states, scale_stream
from rectiflow.encoders.settings import EncodersModel
from rectiflow.encoders.text import TextEncoders

CAPTIONS = ["a blue star left of a green square", "two red circles", 'the word "CAT" in black']
MODEL = EncodersModel(clip_l_width=32, clip_g_width=64, t5_width=96, clip_layers=3, t5_layers=1)
PARTS = ("clip_l", "clip_g", "t5", "pooled_l", "pooled_g")


@pytest.fixture
def text():
    return TextEncoders.new(MODEL, CAPTIONS, seed=1)


def test_every_part_has_unit_scale_afterwards_and_says_what_it_said(text):
    scale_stream(text.clip_g, 7.0)
    text.t5.encoder.final_layer_norm.weight.data.mul_(3.0)
    before = text.encode(CAPTIONS)
    scales = normalise_states(text, CAPTIONS)
    after = text.encode(CAPTIONS)
    for name in PARTS:
        was, now = getattr(before, name), getattr(after, name)
        assert now.square().mean().sqrt().item() == pytest.approx(1, abs=1e-3)
        assert was.square().mean().sqrt().item() == pytest.approx(scales[name], rel=1e-5)
        torch.testing.assert_close(now * scales[name], was, rtol=1e-3, atol=1e-4 * scales[name])
        same = functional.cosine_similarity(was, now, dim=-1)
        torch.testing.assert_close(same, torch.ones_like(same), rtol=0, atol=1e-5)


def test_scaling_the_stream_scales_the_states_and_nothing_else(text):
    before = text.encode(CAPTIONS)
    scale_stream(text.clip_l, 3.0)
    after = text.encode(CAPTIONS)
    torch.testing.assert_close(after.clip_l, 3 * before.clip_l, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.pooled_l, before.pooled_l, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.clip_g, before.clip_g)


def test_the_order_of_captions_does_not_matter(text):
    other = TextEncoders.new(MODEL, CAPTIONS, seed=1)
    normalise_states(text, CAPTIONS)
    normalise_states(other, reversed(CAPTIONS * 2))
    assert text.identity() == other.identity()


def test_no_captions_are_refused(text):
    with pytest.raises(ValueError, match="at least one prompt"):
        normalise_states(text, [])
