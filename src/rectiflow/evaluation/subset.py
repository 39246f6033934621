"""Fewer prompts of a suite, for a quick look."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

P = TypeVar("P", bound=Mapping[str, Any])


def evenly(prompts: Sequence[P], per_task: int) -> list[P]:
    """At most `per_task` prompts of every task and split, evenly spaced, in their order.

    Raises:
        ValueError: If `per_task` < 1.
    """
    if per_task < 1:
        raise ValueError(f"per_task must be >= 1, got {per_task}")
    groups: dict[tuple[Any, Any], list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((prompt["tag"], prompt.get("split", "seen")), []).append(i)
    kept = set()
    for group in groups.values():
        num = min(per_task, len(group))
        kept |= {group[k * len(group) // num] for k in range(num)}
    return [prompts[i] for i in sorted(kept)]
