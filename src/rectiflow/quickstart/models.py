"""Let a model draw the fixed prompts and the suite's, and score it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.evaluation.subset import evenly
from rectiflow.evaluation.suite import SuiteSettings, evaluate_pictures
from rectiflow.jobs.job import Progress
from rectiflow.quickstart.findings import ModelFindings
from rectiflow.quickstart.prompts import PROMPTS, SEED
from rectiflow.runs import write_json
from rectiflow.sampling.pipeline import Pipeline

SUITE_SEED = 0  # as `rectiflow evaluate` has it, so that its pictures are these


def scored_prompts(per_task: int) -> list[dict[str, Any]]:
    """Prompts of the suite that training has shown combinations of, `per_task` of each task."""
    return evenly([p for p in load_prompts() if p["split"] == "seen"], per_task)


def findings_of(
    pipeline: Pipeline,
    name: str,
    *,
    facts: Mapping[str, Any],
    per_task: int,
    folder: Path,
    stage: str,
    progress: Progress,
) -> ModelFindings:
    """Draw and score with one model.

    Args:
        pipeline: The model.
        name: What the report calls it.
        facts: What is known of it beforehand.
        per_task: Prompts of every task.
        folder: Gets results.jsonl, summary.txt and summary.json.
        stage: Name of the scoring, for `progress`.
        progress: Told how far the work is.
    """

    def drawn(done: int, total: int) -> None:
        progress("drawing", done, total, {})

    keys = [(SEED, i) for i in range(len(PROMPTS))]
    pictures = pipeline.draw(PROMPTS, keys, on_progress=drawn)
    scored: list[np.ndarray] = []

    def draw(texts: Sequence[str], seeds: Sequence[int]) -> list[np.ndarray]:
        batch = pipeline.draw(texts, [(SUITE_SEED, seed) for seed in seeds])
        scored.extend(batch)
        return batch

    evaluation = evaluate_pictures(
        draw,
        scored_prompts(per_task),
        SuiteSettings(size_px=pipeline.side_px),
        round_trip=pipeline.round_trip,
        on_progress=lambda done, total: progress(stage, done, total, {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.write(folder)
    write_json(folder / "summary.json", evaluation.summary)
    drawing = dataclasses.asdict(pipeline.options)
    chosen = ("num_steps", "solver", "guidance_scale", "shift")
    return ModelFindings(
        name=name,
        facts={**facts, **{key: drawing[key] for key in chosen}},
        pictures=pictures,
        summary=evaluation.summary,
        rows=evaluation.rows,
        scored=scored,
    )
