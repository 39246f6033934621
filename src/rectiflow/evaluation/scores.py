"""From result lines to scores: means of tasks, their mean, and how sure one can be of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from rectiflow.evaluation.geneval import TASKS

NUM_RESAMPLES: Final = 1000
COVERAGE: Final = 0.95
SEED: Final = 0

Row = Mapping[str, Any]


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Scores of a suite, ready for JSON; a score without any picture is None.

    Returns:
        `overall`: mean of GenEval's six tasks, seen prompts, GenEval's lenient rules;
        `overall_interval`: 95 % of a bootstrap over prompts; `text`: share of words read right;
        `strict`: as overall, but nothing else may be in the picture; `heldout`: as overall, on
        prompts whose combination training never shows; `tasks`, `strict_tasks`, `heldout_tasks`:
        the same by task; `num_pictures`, `num_prompts`.
    """
    seen = [row for row in rows if row["split"] == "seen"]
    heldout = [row for row in rows if row["split"] != "seen"]
    tasks = _task_means(seen, "correct")
    strict_tasks = _task_means(seen, "strict")
    heldout_tasks = _task_means(heldout, "correct")
    return {
        "overall": _mean_of_tasks(tasks),
        "overall_interval": bootstrap_interval(seen),
        "text": tasks.get("text"),
        "strict": _mean_of_tasks(strict_tasks),
        "heldout": _mean_of_tasks(heldout_tasks),
        "tasks": tasks,
        "strict_tasks": strict_tasks,
        "heldout_tasks": heldout_tasks,
        "num_pictures": len(rows),
        "num_prompts": len({row["metadata"] for row in rows}),
    }


def bootstrap_interval(rows: Iterable[Row]) -> list[float] | None:
    """Interval of the overall score if other prompts had been asked, GenEval's tasks only.

    Prompts are drawn again within their task, all pictures of a prompt together: pictures of one
    prompt fail together, so drawing pictures would promise too much.
    """
    generator = np.random.default_rng(SEED)
    resampled = []
    for per_prompt in _per_prompt(rows).values():
        index = generator.integers(0, len(per_prompt), (NUM_RESAMPLES, len(per_prompt)))
        hits, shown = per_prompt[index].sum(1).T
        resampled.append(hits / shown)
    if not resampled:
        return None
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(np.mean(resampled, axis=0), [tail, 100 - tail])
    return [float(low), float(high)]


def _per_prompt(rows: Iterable[Row]) -> dict[str, Float[np.ndarray, "prompts 2"]]:
    """Numbers of correct and of all pictures of every prompt, by task."""
    counts: dict[str, dict[str, list[int]]] = {}
    for row in rows:
        if row["tag"] in TASKS:
            count = counts.setdefault(row["tag"], {}).setdefault(row["metadata"], [0, 0])
            count[0] += bool(row["correct"])
            count[1] += 1
    return {tag: np.array(list(of.values()), np.float64) for tag, of in counts.items()}


def _task_means(rows: Iterable[Row], key: str) -> dict[str, float]:
    hits: dict[str, list[bool]] = {}
    for row in rows:
        hits.setdefault(row["tag"], []).append(bool(row[key]))
    return {tag: sum(of) / len(of) for tag, of in hits.items()}


def _mean_of_tasks(means: Mapping[str, float]) -> float | None:
    known = [means[tag] for tag in TASKS if tag in means]
    return sum(known) / len(known) if known else None
