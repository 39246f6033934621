"""Logits and entropy of attention against closed forms."""

import math

import pytest
import torch
from torch import nn

from rectiflow.nn.attention_statistics import AttentionWatch, attention_statistics


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_equal_keys_have_the_entropy_of_their_number_and_one_winner_has_none():
    query, key = drawn(2, 3, 4, 8), drawn(1, 1, 1, 8).expand(2, 3, 7, 8)
    found = attention_statistics(query, key)
    assert found.entropy == pytest.approx(math.log(7), rel=1e-6)
    expected = (query * key[0, 0, 0]).sum(-1).max().item() / math.sqrt(8)
    assert found.logit_max == pytest.approx(expected, rel=1e-5)
    basis = torch.eye(8)[None, None]
    won = attention_statistics(basis, 1000 * basis)
    assert won.entropy == pytest.approx(0, abs=1e-6)
    assert won.logit_max == pytest.approx(1000 / math.sqrt(8), rel=1e-6)


def test_two_keys_have_the_entropy_of_a_coin():
    """Logits 0 and x: p = 1 / (1 + e^x), and H = -p ln p - (1 - p) ln(1 - p)."""
    query = torch.tensor([[[[1.0]]]])
    key = torch.tensor([[[[0.0], [1.5]]]])
    p = 1 / (1 + math.exp(1.5))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert attention_statistics(query, key).entropy == pytest.approx(entropy, rel=1e-6)
    assert attention_statistics(query, key, scale=2.0).logit_max == 3.0


def test_keys_that_are_hidden_do_not_count():
    query, key = drawn(2, 2, 3, 8), drawn(2, 2, 5, 8)
    seen = torch.tensor([True, True, False, True, False])
    alone = attention_statistics(query, key[:, :, seen])
    added = torch.where(seen, 0.0, -torch.inf)
    for mask in (seen, added, seen.expand(2, 1, 3, 5)):
        found = attention_statistics(query, key, mask)
        assert found.logit_max == pytest.approx(alone.logit_max, rel=1e-6)
        assert found.entropy == pytest.approx(alone.entropy, rel=1e-5)


def test_a_watch_notes_every_attention_in_its_order_and_changes_none():
    query, key, value = drawn(1, 2, 3, 8), drawn(1, 2, 3, 8) * 2, drawn(1, 2, 3, 8) * 3
    attend = nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value)
    with AttentionWatch() as watch:
        assert torch.equal(attend(query, key, value), expected)
        attend(query, query, value, scale=1.0)
    attend(query, key, value)
    assert watch.seen == [
        attention_statistics(query, key),
        attention_statistics(query, query, scale=1.0),
    ]
