"""Order of the data: sample position -> index, a pure function, so resuming is one integer.

Every epoch (num_samples consecutive positions) visits every sample once, in an order keyed by
(seed, epoch). Two levels: shards are permuted, then the samples within a window of consecutive
shards, so that a reader has only `window` shards open at a time and an object store is read almost
sequentially.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

_ROUNDS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Keyed order of `num_samples` samples.

    Args:
        num_samples: Samples of one epoch, > 0.
        seed: Key, any integer.
        shard_sizes: Samples of each shard, >= 0, whose sum is `num_samples`; none for one shard.
        window: Shards whose samples are mixed with each other.
        shuffle: False gives the stored order, every epoch.
    """

    num_samples: int
    seed: int = 0
    shard_sizes: Sequence[int] | np.ndarray = ()
    window: int = 16
    shuffle: bool = True
    _firsts: np.ndarray = field(init=False, repr=False)
    _epochs: "dict[int, _Epoch]" = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be >= 1, got {self.num_samples}")
        if self.window < 1:
            raise ValueError(f"window must be >= 1, got {self.window}")
        given = self.shard_sizes if len(self.shard_sizes) else (self.num_samples,)
        sizes = np.asarray(given, dtype=np.int64)
        if sizes.min() < 0 or sizes.sum() != self.num_samples:
            raise ValueError(
                f"shard_sizes must be >= 0 and add up to num_samples {self.num_samples}, "
                f"got {sizes.sum()} with {sizes.min()} as the least"
            )
        object.__setattr__(self, "_firsts", np.concatenate([[0], np.cumsum(sizes)]))

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

    def windows_from(self, position: int) -> Iterator[np.ndarray]:
        """Shards in the order of need: those mixed at `position`, then the next window, endlessly.

        Where nothing is shuffled, each shard is a window of its own. Shards without samples are
        left out.
        """
        sizes = np.diff(self._firsts)
        epoch, within = divmod(position, self.num_samples)
        while True:
            layout = self._layout(epoch)
            first = int(np.searchsorted(layout.edges, within, side="right")) - 1
            for number in range(first, len(layout.edges) - 1):
                window = layout.shards[number * layout.window : (number + 1) * layout.window]
                if len(needed := window[sizes[window] > 0]):
                    yield needed
            epoch, within = epoch + 1, 0

    def _epoch_indices(self, epoch: int, within: np.ndarray) -> np.ndarray:
        layout = self._layout(epoch)
        windows = np.searchsorted(layout.edges, within, side="right") - 1
        result = np.empty_like(within)
        for number in np.unique(windows):
            chosen = windows == number
            start, end = layout.edges[number : number + 2]
            key = _key(self.seed, epoch, f"window {number}")
            mixed = start + permute(within[chosen] - start, int(end - start), key)
            slots = np.searchsorted(layout.starts, mixed, side="right") - 1
            result[chosen] = self._firsts[layout.shards[slots]] + mixed - layout.starts[slots]
        return result

    def _layout(self, epoch: int) -> "_Epoch":
        """How an epoch lies; made once, and kept for this epoch and the one before."""
        layout = self._epochs.get(epoch)
        if layout is None:
            num = len(self._firsts) - 1
            shards, window = np.arange(num), 1
            if self.shuffle:
                shards = permute(shards, num, _key(self.seed, epoch, "shards"))
                window = self.window
            starts = np.concatenate([[0], np.cumsum(np.diff(self._firsts)[shards])])
            edges = np.concatenate([starts[:-1:window], starts[-1:]])
            layout = _Epoch(shards, starts, edges, window)
            for old in [known for known in self._epochs if known < epoch - 1]:
                self._epochs.pop(old, None)  # another thread may have done it
            self._epochs[epoch] = layout
        return layout


@dataclass(frozen=True, slots=True)
class _Epoch:
    """The shards of an epoch laid end to end.

    Args:
        shards: In their order, shape (shards,).
        starts: Position within the epoch at which each begins, and the end.
        edges: The same of each window.
        window: Shards of a window, the last one may have fewer.
    """

    shards: np.ndarray
    starts: np.ndarray
    edges: np.ndarray
    window: int


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
