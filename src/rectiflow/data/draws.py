"""Randomness of training as a pure function of (seed, purpose, sample position).

Each sample has its own counter range of a Philox generator (Salmon et al. 2011,
doi 10.1145/2063384.2063405) whose key is a hash of (seed, purpose). So neither the batch a sample
is in, nor microbatches, workers or restarts enter. Everything is drawn on the CPU. torch's own
generator is not used: on the CPU it keeps only the low 32 bits of its seed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_BITS = 52  # one fewer than a double holds, so that the largest value stays below 1


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Random numbers for the samples at `positions`.

    Args:
        seed: Seed of the run, any integer.
        positions: Positions in the global order of samples, >= 0, int64, shape (batch,).
    """

    seed: int
    positions: np.ndarray

    def __post_init__(self) -> None:
        if self.positions.ndim != 1 or self.positions.dtype != np.int64:
            raise ValueError(
                f"positions must be int64 of shape (batch,), got {self.positions.dtype} "
                f"of shape {self.positions.shape}"
            )
        if self.positions.size and self.positions.min() < 0:
            raise ValueError(f"positions must be >= 0, got {self.positions.min()}")

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, index: np.ndarray | slice) -> "Draws":
        """The same draws for some of the samples."""
        return Draws(self.seed, self.positions[index])

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on the open interval (0, 1), float64, shape (batch, *shape)."""
        drawn = np.empty((len(self), *shape))
        for row, generator in enumerate(self._generators(purpose)):
            drawn[row] = generator.random(tuple(shape))
        return torch.from_numpy((np.floor(drawn * 2**_BITS) + 0.5) * 2.0**-_BITS)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal, float32, shape (batch, *shape)."""
        drawn = np.empty((len(self), *shape), dtype=np.float32)
        for row, generator in enumerate(self._generators(purpose)):
            drawn[row] = generator.standard_normal(tuple(shape), dtype=np.float32)
        return torch.from_numpy(drawn)

    def _generators(self, purpose: str) -> Iterator[np.random.Generator]:
        key = _key(self.seed, purpose)
        for position in self.positions:
            # The low counter word is the sample's own, 2^64 blocks; the next one is the position.
            counter = np.array([0, position, 0, 0], dtype=np.uint64)
            yield np.random.Generator(np.random.Philox(key=key, counter=counter))


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return np.frombuffer(digest[:16], dtype=np.uint64)
