import pytest
import torch

from rectiflow.encoders.states import TextStates, assemble

# Widths 2 + 1 < 4, two CLIP tokens, three T5 tokens; every number occurs once.
STATES = TextStates(
    clip_l=torch.arange(1.0, 9).reshape(2, 2, 2),
    clip_g=torch.arange(11.0, 15).reshape(2, 2, 1),
    t5=torch.arange(101.0, 125).reshape(2, 3, 4),
    pooled_l=torch.tensor([[21.0, 22], [23, 24]]),
    pooled_g=torch.tensor([[31.0], [32]]),
)


def test_clip_states_lie_side_by_side_before_t5_with_zeros_up_to_its_width():
    cond = assemble(STATES)
    expected = torch.tensor(
        [
            [1, 2, 11, 0],
            [3, 4, 12, 0],
            [101, 102, 103, 104],
            [105, 106, 107, 108],
            [109, 110, 111, 112],
        ]
    )
    assert cond.context[0].tolist() == expected.tolist()
    assert cond.context[1, :3].tolist() == [[5, 6, 13, 0], [7, 8, 14, 0], [113, 114, 115, 116]]
    assert cond.pooled.tolist() == [[21, 22, 31], [23, 24, 32]]
    assert cond.segments == (2, 3)


def test_a_dropped_encoder_is_zeros_in_its_place_and_nothing_else_moves():
    whole = assemble(STATES)
    keep = torch.tensor([[False, True, True], [True, False, True]])
    cond = assemble(STATES, keep)
    context, pooled = whole.context.clone(), whole.pooled.clone()
    context[0, :2, :2] = 0  # the first sample loses the first CLIP encoder
    pooled[0, :2] = 0
    context[1, :2, 2] = 0  # the second sample loses the second
    pooled[1, 2] = 0
    assert torch.equal(cond.context, context)
    assert torch.equal(cond.pooled, pooled)
    assert cond.segments == whole.segments


def test_t5_has_no_pooled_vector_to_lose():
    cond = assemble(STATES, without=("t5",))
    assert torch.equal(cond.pooled, assemble(STATES).pooled)
    assert torch.equal(cond.context[:, :2], assemble(STATES).context[:, :2])
    assert not cond.context[:, 2:].any()
    assert cond.context.shape == (2, 5, 4)  # its positions stay


def test_leaving_out_and_keeping_combine():
    keep = torch.tensor([[True, True, False], [False, True, True]])
    both = assemble(STATES, keep, without=("clip_g",))
    alone = assemble(STATES, keep & torch.tensor([True, False, True]))
    assert torch.equal(both.context, alone.context)
    assert torch.equal(both.pooled, alone.pooled)


def test_zeros_are_zeros_even_of_states_that_are_not_finite():
    broken = TextStates(
        STATES.clip_l, STATES.clip_g, STATES.t5 / 0, STATES.pooled_l, STATES.pooled_g
    )
    assert not assemble(broken, without=["t5"]).context[:, 2:].any()


def test_unknown_encoders_and_too_wide_states_are_refused():
    with pytest.raises(ValueError, match="text encoders are clip_l, clip_g, t5, got t6"):
        assemble(STATES, without=["t6"])
    narrow = TextStates(
        STATES.clip_l, STATES.clip_g, STATES.t5[..., :2], STATES.pooled_l, STATES.pooled_g
    )
    with pytest.raises(ValueError, match="width 3 exceed T5's 2"):
        assemble(narrow)


def test_moving_changes_every_part():
    moved = STATES.to(dtype=torch.float64)
    assert moved.t5.dtype == moved.clip_l.dtype == moved.pooled_g.dtype == torch.float64
    assert torch.equal(moved.pooled_l.float(), STATES.pooled_l)
