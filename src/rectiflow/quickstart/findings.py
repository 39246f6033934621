"""What the quickstart found out: everything its report shows, ready to be shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Pictures = Sequence[np.ndarray]  # each (height, width, 3), bytes


@dataclass(frozen=True, kw_only=True)
class ModelFindings:
    """One model's pictures and scores.

    Args:
        name: What the report calls it.
        facts: What it is and how it drew, by name.
        pictures: Of the fixed prompts, in their order.
        summary: Scores and controls, as `evaluation.suite` gives them.
        rows: The lines of results.jsonl.
        scored: The pictures that the lines are about.
    """

    name: str
    facts: Mapping[str, Any]
    pictures: Pictures
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    scored: Pictures


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The same prompts, from the same noise, at several moments of the training.

    Args:
        prompts: What was drawn.
        steps: When.
        pictures: pictures[i][j] shows prompt j after steps[i].
    """

    prompts: Sequence[str]
    steps: Sequence[int]
    pictures: Sequence[Pictures]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything in the report.

    Args:
        headline: One line that says what was trained.
        prompts: Drawn by both models, from the same noise.
        unseen: Those of them that no training scene shows.
        fresh: The model that was just trained.
        reference: The one that ships with the package.
        learning: Pictures from the training.
        metrics: Lines of the run's metrics.jsonl.
        settings: (dotted name, value, whether the quickstart changed the recipe's own value).
        seconds: Of each stage.
        machine: Facts by name.
        commands: (what it does, command line) to go on with.
    """

    headline: str
    prompts: Sequence[str]
    unseen: frozenset[str]
    fresh: ModelFindings
    reference: ModelFindings
    learning: Learning
    metrics: Sequence[Mapping[str, Any]]
    settings: Sequence[tuple[str, Any, bool]]
    seconds: Mapping[str, float]
    machine: Mapping[str, str]
    commands: Sequence[tuple[str, str]]
