"""A prompt that is longer than a text encoder holds is cut, and the user is told."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rectiflow.encoders.tokenizers import lengths


class TruncationWarning(UserWarning):
    """A prompt had more tokens than a text encoder holds; the message says how many were cut.

    Attributes:
        num_prompts: How many prompts of the batch that happened to.
    """

    def __init__(self, message: str, num_prompts: int = 1) -> None:
        super().__init__(message)
        self.num_prompts = num_prompts


def warn_about_cuts(prompts: Sequence[str], limits: Mapping[str, tuple[Any, int]]) -> None:
    """Warn once about the prompts that do not fit.

    Args:
        prompts: The prompts.
        limits: By name of the encoder, its tokenizer and how many tokens it holds.
    """
    over = [
        [max(0, tokens - limit) for tokens in lengths(tokenizer, prompts)]
        for tokenizer, limit in limits.values()
    ]
    cuts = [(prompt, lost) for prompt, *lost in zip(prompts, *over, strict=True) if any(lost)]
    if cuts:
        prompt, lost = cuts[0]
        told = ", ".join(
            f"{name} {number}" for name, number in zip(limits, lost, strict=True) if number
        )
        more = f" (and {len(cuts) - 1} more prompts)" if len(cuts) > 1 else ""
        message = f"prompt too long, tokens cut: {told}, of {_shortened(prompt)!r}{more}"
        warnings.warn(TruncationWarning(message, len(cuts)), stacklevel=4)


def _shortened(prompt: str, length: int = 60) -> str:
    return prompt if len(prompt) <= length else prompt[:length] + "..."
