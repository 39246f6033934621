import pytest
import torch

from rectiflow.conditioning import Conditioning, cat, zeros_like


def make(batch: int, start: float = 0.0, segments: tuple[int, ...] = (2, 1)) -> Conditioning:
    context = start + torch.arange(batch * 3 * 4, dtype=torch.float32).view(batch, 3, 4)
    return Conditioning(context, start + torch.arange(batch * 5.0).view(batch, 5), segments)


def test_cat_joins_along_the_batch_in_order():
    first, second = make(2), make(3, start=100)
    both = cat(first, second)
    assert len(both) == 5
    assert both.segments == (2, 1)
    torch.testing.assert_close(both.context[:2], first.context)
    torch.testing.assert_close(both.pooled[2:], second.pooled)


def test_select_undoes_cat():
    first, second = make(2), make(3, start=100)
    both = cat(first, second)
    for index in (slice(2, 5), [2, 3, 4], torch.tensor([False, False, True, True, True])):
        assert both.select(index).context.equal(second.context)
        assert both.select(index).pooled.equal(second.pooled)


def test_to_changes_the_type_of_both_and_leaves_the_original():
    cond = make(2)
    half = cond.to(dtype=torch.bfloat16)
    assert half.context.dtype == half.pooled.dtype == torch.bfloat16
    assert cond.context.dtype == torch.float32


def test_texts_of_different_layout_are_not_joined():
    with pytest.raises(ValueError, match=r"equal segments, got \[\(2, 1\), \(3,\)\]"):
        cat(make(1), make(1, segments=(3,)))
    with pytest.raises(ValueError, match="at least one"):
        cat()


def test_text_that_says_nothing_keeps_its_layout():
    nothing = zeros_like(make(2))
    assert not nothing.context.any()
    assert not nothing.pooled.any()
    assert (nothing.context.shape, nothing.segments) == (make(2).context.shape, make(2).segments)


def test_segments_must_sum_to_the_tokens():
    with pytest.raises(ValueError, match=r"\(2, 2\) must sum to the 3 tokens"):
        make(1, segments=(2, 2))


def test_batches_must_agree():
    # ValueError from the library; TypeError from the test hook, which checks shapes first.
    with pytest.raises((ValueError, TypeError)):
        Conditioning(torch.zeros(2, 3, 4), torch.zeros(3, 5), (3,))
