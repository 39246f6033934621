"""Resampled prompts: how a score would vary had other prompts been asked.

Replicate b holds the same prompts whatever is scored, so that replicates of two models pair: what
an easy set of prompts does to both cancels in their difference. Pictures of one prompt fail
together, so they are drawn together.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

_KEY = 0x5CE7E5  # any number; another one would be other replicates


def resampled(
    prompt_of_picture: Sequence[int], num_replicates: int
) -> Int[np.ndarray, "replicates pictures"]:
    """How often each replicate holds each picture.

    Args:
        prompt_of_picture: Number of every picture's prompt, 0 to the number of prompts - 1.
        num_replicates: Replicate b is a function of b and of the number of prompts alone.

    Raises:
        ValueError: If there is no picture, or no replicate is asked for.
    """
    if not len(prompt_of_picture) or num_replicates < 1:
        raise ValueError(
            "a bootstrap needs pictures and replicates, "
            f"got {len(prompt_of_picture)} pictures and {num_replicates} replicates"
        )
    pictures = np.asarray(prompt_of_picture, dtype=np.int64)
    num_prompts = int(pictures.max()) + 1
    return np.stack([_counts(num_prompts, b)[pictures] for b in range(num_replicates)])


def bootstrap_means(
    values: Float[np.ndarray, " pictures"], counts: Int[np.ndarray, "replicates pictures"]
) -> list[float]:
    """Mean of the values of every replicate's pictures."""
    return [float(np.average(values, weights=row)) for row in counts]


def _counts(num_prompts: int, replicate: int) -> Int[np.ndarray, " prompts"]:
    generator = np.random.Generator(np.random.Philox(key=[_KEY, replicate]))
    chosen = generator.integers(0, num_prompts, num_prompts)
    return np.bincount(chosen, minlength=num_prompts)
