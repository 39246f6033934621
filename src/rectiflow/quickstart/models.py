"""Let a model draw the fixed prompts and the suite's, and score it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow.devices import resolve_device
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.evaluation.subset import evenly
from rectiflow.evaluation.suite import SuiteSettings, evaluate_pictures
from rectiflow.jobs.job import Progress
from rectiflow.nn.backbones import backbone_of
from rectiflow.quickstart.findings import ModelFindings
from rectiflow.quickstart.prompts import PROMPTS, SEED
from rectiflow.runs import Run, write_json
from rectiflow.sampling.load import load
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.sources import find_source

SUITE_SEED = 0  # as `rectiflow evaluate` has it, so that its pictures are these


def scored_prompts(per_task: int) -> list[dict[str, Any]]:
    """Prompts of the suite that training has shown combinations of, `per_task` of each task."""
    return evenly([p for p in load_prompts() if p["split"] == "seen"], per_task)


def findings_of(
    source: str,
    name: str,
    *,
    num_steps: int | None,
    per_task: int,
    folder: Path,
    progress: Progress,
) -> ModelFindings:
    """Draw and score with one model.

    Args:
        source: A bundle by name, or the folder of a bundle or a run.
        name: What the report calls it.
        num_steps: It was trained for; None if its own files are to tell.
        per_task: Prompts of every task.
        folder: Gets results.jsonl, summary.txt and summary.json.
        progress: Told how far the work is.
    """
    progress("drawing", 0, len(PROMPTS), {})
    pipeline = load(source, device=resolve_device("auto").type)
    keys = [(SEED, i) for i in range(len(PROMPTS))]
    pictures = pipeline.draw(
        PROMPTS, keys, on_progress=lambda done, total: progress("drawing", done, total, {})
    )
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
        on_progress=lambda done, total: progress(f"scoring {name}", done, total, {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.write(folder)
    write_json(folder / "summary.json", evaluation.summary)
    return ModelFindings(
        name=name,
        facts=_facts(pipeline, source, num_steps),
        pictures=pictures,
        summary=evaluation.summary,
        rows=evaluation.rows,
        scored=scored,
    )


def _facts(pipeline: Pipeline, source: str, num_steps: int | None) -> dict[str, Any]:
    """What a model is, how long it was trained as far as its files tell, and how it drew."""
    network: Any = pipeline.network
    options = pipeline.options
    result = Run(find_source(source).folder).result() or {}
    facts = {
        "model": source,
        "network": backbone_of(network.config).kind,
        "depth": getattr(network.config, "depth", None),
        "parameters": backbone_of(network.config).num_parameters(network.config),
        "steps": result.get("num_steps") if num_steps is None else num_steps,
        "pictures seen": result.get("images_seen"),
        "solver": f"{options.solver}, {options.num_steps} steps",
        "guidance scale": options.guidance_scale,
        "shift of times": options.shift,
        "device": pipeline.device.type,
        "precision": pipeline.precision,
    }
    return {name: value for name, value in facts.items() if value is not None}
