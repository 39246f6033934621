"""The order of the data is a bijection of every epoch, and a function of the position alone."""

import hashlib
import time
from itertools import islice

import numpy as np
import pytest

from rectiflow.data.order import Order, permute

SIZES = [1, 2, 3, 5, 7, 16, 97, 1000]


def even_shards(num: int, size: int) -> list[int]:
    """All of one size but the last."""
    return [min(size, num - first) for first in range(0, num, size)] if size else []


@pytest.mark.parametrize("num", SIZES)
@pytest.mark.parametrize("shards", [(0, 1), (1, 3), (8, 1), (8, 3), (7, 2), (5000, 4)], ids=str)
def test_every_epoch_visits_every_sample_once(num, shards):
    order = Order(num, seed=3, shard_sizes=even_shards(num, shards[0]), window=shards[1])
    for epoch in (0, 1, 10**9):
        visited = order.indices(np.arange(num) + epoch * num)
        assert np.array_equal(np.sort(visited), np.arange(num))


def test_a_position_means_the_same_sample_however_it_is_asked():
    order = Order(1003, seed=1, shard_sizes=even_shards(1003, 64), window=4)
    positions = np.arange(5000)
    at_once = order.indices(positions)
    mixed = np.random.default_rng(0).permutation(positions)
    assert np.array_equal(order.indices(mixed), at_once[mixed])
    assert np.array_equal(
        [int(order.indices(np.array([p]))[0]) for p in range(990, 1010)], at_once[990:1010]
    )


def test_epochs_and_seeds_are_ordered_independently():
    """Two independent permutations of n agree at about one place, and are uncorrelated."""
    num = 10_000
    first, second = Order(num).indices(np.arange(2 * num)).reshape(2, num)
    other = Order(num, seed=1).indices(np.arange(num))
    for a, b in [(first, second), (first, other), (first, np.arange(num))]:
        assert (a == b).sum() < 8
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / num**0.5


def test_a_permutation_sends_each_value_to_each_place_equally_often():
    """Chi-square of 6 x 6 cells over 6000 keys; 25 degrees of freedom, 99.99 % below 62."""
    counts = np.zeros((6, 6))
    for key in range(6000):
        counts[np.arange(6), permute(np.arange(6), 6, key * 0x9E3779B97F4A7C15 % 2**64)] += 1
    assert ((counts - 1000) ** 2 / 1000).sum() < 62


def test_only_a_window_of_shards_is_open_at_a_time():
    order = Order(4000, seed=5, shard_sizes=[100] * 40, window=4)
    shards = order.indices(np.arange(4000)) // 100
    for start in range(0, 4000, 400):
        within = shards[start : start + 400]
        assert len(np.unique(within)) == 4
        assert (np.diff(within) != 0).mean() > 0.5  # mixed, not one shard after the other
    assert not np.array_equal(np.unique(shards[:400]), np.arange(4))  # shards are permuted too


def test_windows_are_of_whole_shards_however_uneven():
    """A shard is read in one window of an epoch, and `windows_from` tells in which."""
    sizes = np.array([5, 0, 3, 9, 1, 1, 30, 2, 7, 4])
    order = Order(int(sizes.sum()), seed=2, shard_sizes=sizes, window=3)
    shard_of = np.repeat(np.arange(10), sizes)
    for epoch in (0, 7):
        start, seen = epoch * order.num_samples, []
        positions = np.arange(order.num_samples) + start
        shards = shard_of[order.indices(positions)]
        assert np.array_equal(np.bincount(shards, minlength=10), sizes)
        windows = [next(order.windows_from(int(position))) for position in positions]
        for window in islice(order.windows_from(start), 4):
            read = [shards[i] for i in range(len(shards)) if np.array_equal(windows[i], window)]
            assert set(read) == set(window)
            assert len(read) == sizes[window].sum()
            seen += window.tolist()
            assert len(window) <= 3
        assert sorted(seen) == [0, *range(2, 10)]  # the empty one is not needed
    later = next(islice(order.windows_from(0), 4, None))
    assert np.array_equal(later, next(order.windows_from(order.num_samples)))


def test_unshuffled_shards_are_needed_one_by_one():
    windows = islice(Order(6, shard_sizes=[2, 3, 1], shuffle=False).windows_from(3), 4)
    assert [window.tolist() for window in windows] == [[1], [2], [0], [1]]


def test_the_order_that_recipes_were_trained_in_stays():
    order = Order(80_000, seed=0, shard_sizes=even_shards(80_000, 2713), window=16)
    indices = order.indices(np.arange(3 * 80_000, step=7))
    assert hashlib.sha256(indices.tobytes()).hexdigest()[:16] == "3ddb5a6834363557"


def test_a_place_in_a_far_epoch_of_many_shards_costs_what_the_first_does():
    """After an epoch's layout is made, a batch of a store of 10^5 shards takes milliseconds."""
    order = Order(10**8, shard_sizes=np.full(10**5, 1000))
    batch = np.arange(256) + 10**15
    order.indices(batch)
    started = time.perf_counter()
    for _ in range(20):
        order.indices(batch)
    assert (time.perf_counter() - started) / 20 < 0.005


def test_without_shuffling_the_stored_order_repeats():
    assert Order(3, shuffle=False).indices(np.arange(7)).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be >= 1, got 0"),
        ({"num_samples": 5, "shard_sizes": [6, -1]}, "got 5 with -1 as the least"),
        ({"num_samples": 5, "shard_sizes": [2, 2]}, "must be >= 0 and add up to num_samples 5"),
        ({"num_samples": 5, "window": 0}, "window must be >= 1, got 0"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Order(**arguments)
