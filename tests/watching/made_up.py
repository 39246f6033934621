"""Run folders in every state, made by hand."""

import json
import os

import numpy as np
from PIL import Image

from rectiflow.runs import Run
from rectiflow.sampling.images import contact_sheet

NOW = 1_700_000_000.0
"""The time that tests take for the present."""

RECIPE = {
    "name": "tiny",
    "kind": "flow",
    "seed": 0,
    "data": {"kind": "scenes", "size_px": 16},
    "model": {"kind": "mmdit", "depth": 2},
    "objective": {"formulation": "rf"},
    "training": {"num_steps": 300, "minutes": None, "batch_size": 8, "learning_rate": 1e-3},
    "sampling": {"num_pictures": 4},
}


def recipe(**changes):
    """The recipe with settings changed by their dotted names."""
    made = json.loads(json.dumps(RECIPE))
    for name, value in changes.items():
        *sections, last = name.split("__")
        place = made
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return made


def rows(num=30, level=1.0, every=10):
    """Lines whose loss falls to `level`, with validation at every fifth; no two values equal."""
    made = []
    for k in range(1, num + 1):
        step = every * k
        row = {
            "step": step,
            "gradient_norm": 0.5 + 1 / step,
            "learning_rate": 1e-3,
            "loss": level + 10 / step,
            "step_seconds": 0.5,
            "loss_by_t": [level + 0.1 * i if i != 1 else None for i in range(10)],
            "samples_per_second": 16.0,
            "elapsed_seconds": 5.0 * k,
        }
        if k % 5 == 0:
            row |= {"val_loss": level + 3 / step, "val_loss_ema": level + 2 / step}
        made.append(row)
    return made


def run(folder, lines=None, config=None, result=None, written_seconds_ago=10.0, **files):
    """A run's folder; further files by the stem of their names."""
    made = Run(folder).create()
    made.config_path.write_text(json.dumps(recipe() if config is None else config))
    if lines is not None:
        made.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if result is not None:
        made.result_path.write_text(json.dumps(result))
    for stem, value in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(value))
    age(made, written_seconds_ago)
    return made


def age(made, seconds):
    """Make all that a run holds as old as that."""
    for path in [*made.folder.rglob("*"), made.folder]:
        os.utime(path, (NOW - seconds, NOW - seconds))


def finished(folder, level=1.0, **changes):
    """A run that reached its last step."""
    lines = rows(level=level)
    result = {
        "status": "finished",
        "num_steps": 300,
        "num_parameters": 1234,
        "device": "cpu",
        "metrics": {"loss": lines[-1]["loss"], "val_loss_ema": lines[-1]["val_loss_ema"]},
    }
    return run(folder, lines, recipe(**changes), result)


def sheet(made, step, seed=0, num=4, side=16, shown=32):
    """Write a sheet of pictures that are noise; returns them as they were drawn."""
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(num)]
    large = [
        Image.fromarray(each).resize((shown, shown), Image.Resampling.NEAREST) for each in drawn
    ]
    made.samples.mkdir(exist_ok=True)
    captions = [f"prompt {k}" for k in range(num)]
    contact_sheet(large, captions=captions).save(made.sheet_path(step))
    return drawn
