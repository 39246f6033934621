from collections import Counter

import pytest

from rectiflow.data.scenes.dice import Dice


def test_draws_depend_on_seed_index_and_purpose_alone():
    def draws(*key):
        dice = Dice(*key)
        return [dice.uniform() for _ in range(40)]  # more than two blocks

    assert draws(1, 2, "a") == draws(1, 2, "a")
    others = [draws(1, 2, "a"), draws(2, 2, "a"), draws(1, 3, "a"), draws(1, 2, "b")]
    assert len({x for other in others for x in other}) == 160


def test_the_stream_is_the_same_on_every_machine():
    dice = Dice(7, 11, "x")
    assert [round(dice.uniform() * 2**32) for _ in range(3)] == [1222133981, 140089344, 1375723531]


def test_uniform_draws_have_the_moments_of_the_uniform_law():
    dice = Dice(0, 0, "moments")
    draws = [dice.uniform() for _ in range(40_000)]
    mean = sum(draws) / len(draws)
    assert mean == pytest.approx(0.5, abs=4 * (1 / 12) ** 0.5 / 200)
    assert sum((x - mean) ** 2 for x in draws) / len(draws) == pytest.approx(1 / 12, rel=0.02)
    assert 0 <= min(draws) <= max(draws) < 1


def test_weighted_draws_follow_their_weights():
    dice = Dice(0, 0, "weights")
    counts = Counter(dice.weighted({"a": 1.0, "b": 3.0, "never": 0.0}) for _ in range(10_000))
    assert counts["b"] / 10_000 == pytest.approx(0.75, abs=0.02)
    assert counts["never"] == 0


def test_integers_reach_both_ends_and_samples_never_repeat():
    dice = Dice(0, 0, "ranges")
    assert {dice.between(-2, 2) for _ in range(200)} == {-2, -1, 0, 1, 2}
    first = Counter()
    for _ in range(600):
        sample = dice.sample("abc", 3)
        assert sorted(sample) == ["a", "b", "c"]
        first["".join(sample)] += 1
    assert len(first) == 6
    assert min(first.values()) > 60
