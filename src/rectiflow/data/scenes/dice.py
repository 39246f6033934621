"""Random draws that are a pure function of (seed, index, purpose), the same on every machine."""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of draws: 16 numbers of 32 bits from each BLAKE2b digest of (key, block number).

    A hash instead of a library generator, whose stream may change between releases, and which
    costs more to set up than the few draws of a scene.
    """

    def __init__(self, seed: int, index: int, purpose: str) -> None:
        self._key = f"{seed}/{index}/{purpose}/"
        self._block = 0
        self._left: list[int] = []

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2^-32."""
        if not self._left:
            digest = blake2b(f"{self._key}{self._block}".encode()).digest()
            self._left = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 64, 4)]
            self._block += 1
        return self._left.pop() / 2**32

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high], both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choose(self, options: Sequence[T]) -> T:
        """One of the options, each equally likely."""
        return options[int(self.uniform() * len(options))]

    def weighted(self, options: dict[T, float]) -> T:
        """One of the options, as likely as its share of the sum of weights."""
        mark = self.uniform() * sum(options.values())
        for option, edge in zip(options, accumulate(options.values()), strict=True):
            if mark < edge:
                return option
        return next(reversed(options))

    def sample(self, options: Sequence[T], num: int) -> list[T]:
        """`num` different options in random order."""
        left = list(options)
        return [left.pop(int(self.uniform() * len(left))) for _ in range(num)]
