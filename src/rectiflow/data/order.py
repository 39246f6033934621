"""Order of the data: sample position -> index, a pure function, so resuming is one integer.

Every epoch (num_samples consecutive positions) visits every sample once, in an order keyed by
(seed, epoch). Two levels: shards are permuted, then the samples within a window of consecutive
shards, so that a reader has only `window` shards open at a time and an object store is read almost
sequentially.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Order:
    """Keyed order of `num_samples` samples.

    Args:
        num_samples: Samples of one epoch, > 0.
        seed: Key, any integer.
        shard_size: Samples per shard, the last one may hold fewer; 0 means a single shard.
        window: Shards whose samples are mixed with each other.
        shuffle: False gives the stored order, every epoch.
    """

    num_samples: int
    seed: int = 0
    shard_size: int = 0
    window: int = 16
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be >= 1, got {self.num_samples}")
        if self.shard_size < 0:
            raise ValueError(f"shard_size must be >= 0, got {self.shard_size}")
        if self.window < 1:
            raise ValueError(f"window must be >= 1, got {self.window}")

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """Sample at each position; positions int64 of any shape, >= 0, in any order."""
        positions = np.asarray(positions, dtype=np.int64)
        epochs, within = np.divmod(positions, self.num_samples)
        if not self.shuffle:
            return within
        result = np.empty_like(within)
        for epoch in np.unique(epochs):  # a batch spans one epoch, rarely two
            chosen = epochs == epoch
            result[chosen] = self._epoch_indices(int(epoch), within[chosen])
        return result

    def _epoch_indices(self, epoch: int, within: np.ndarray) -> np.ndarray:
        size = min(self.shard_size or self.num_samples, self.num_samples)
        num_shards = -(-self.num_samples // size)
        shards = permute(np.arange(num_shards), num_shards, _key(self.seed, epoch, "shards"))
        # Lay the permuted shards end to end, as if all were full but for `deficit` samples missing
        # at the end of the short one; a position past that gap moves up by the deficit.
        deficit = num_shards * size - self.num_samples
        short = int(np.flatnonzero(shards == num_shards - 1)[0])
        span = size * self.window
        short_window = short // self.window
        window_end = min((short_window + 1) * span, num_shards * size) - deficit
        slots = np.where(within >= window_end, within + deficit, within)
        windows, offsets = np.divmod(slots, span)
        result = np.empty_like(within)
        for window in np.unique(windows):
            chosen = windows == window
            gap = deficit if window == short_window else 0
            count = min(span, num_shards * size - int(window) * span) - gap
            mixed = permute(offsets[chosen], count, _key(self.seed, epoch, f"window {window}"))
            if gap:
                gap_at = (short - short_window * self.window + 1) * size - gap
                mixed = np.where(mixed >= gap_at, mixed + gap, mixed)
            slot, offset = np.divmod(mixed, size)
            result[chosen] = shards[window * self.window + slot] * size + offset
        return result


def permute(values: np.ndarray, num: int, key: int) -> np.ndarray:
    """Keyed bijection of {0, ..., num - 1}, evaluated at `values`.

    A Feistel network over the rectangle a x b with a b >= num > a b - a, whose halves are added
    modulo a and b; a result outside the range is sent through again (cycle walking), which keeps it
    a bijection.
    """
    rows = max(1, int(np.ceil(np.sqrt(num))))
    columns = -(-num // rows)
    result = _feistel(values.astype(np.int64), rows, columns, key)
    outside = result >= num
    while outside.any():
        result[outside] = _feistel(result[outside], rows, columns, key)
        outside = result >= num
    return result


def _feistel(values: np.ndarray, rows: int, columns: int, key: int) -> np.ndarray:
    left, right = np.divmod(values, columns)
    for number in range(_ROUNDS):
        left = (left + _hash(right, key, 2 * number)) % rows
        right = (right + _hash(left, key, 2 * number + 1)) % columns
    return left * columns + right


def _hash(values: np.ndarray, key: int, number: int) -> np.ndarray:
    """Finaliser of splitmix64 (Steele et al. 2014, doi 10.1145/2660193.2660195), 62 bits kept."""
    offset = (key + number * 0x9E3779B97F4A7C15) % 2**64
    mixed = values.astype(np.uint64) + np.uint64(offset)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)


def _key(seed: int, epoch: int, purpose: str) -> int:
    digest = hashlib.sha256(f"order:{seed}:{epoch}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
