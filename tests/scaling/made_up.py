"""Run folders of a made-up study, with known numbers."""

import json

from rectiflow.runs import Run, write_json
from rectiflow.scaling.evaluating import SCORES
from rectiflow.scaling.runner import CELL
from rectiflow.scaling.study import Study, Variant

NUM_STEPS, BATCH = 20, 4


def made_up_study(num_seeds=3, **changes):
    values = {
        "name": "colours",
        "part": "flops",
        "title": "Matched colours",
        "recipe": "scenes-study",
        "variants": (
            Variant(name="red", label="Red", settings=()),
            Variant(name="green", label="Green", settings=("model.depth=1",)),
            Variant(name="blue", label="Blue", settings=("model.kind=dit", "model.depth=1")),
        ),
        "reference": "red",
        "num_seeds": num_seeds,
        "notes": ("How it was matched.",),
    }
    return Study(**{**values, **changes})


def write_run(folder, variant, seed, val_loss, scenes, clip, *, config=None):
    """A finished run whose validation loss falls from 2 to `val_loss`."""
    run = Run(folder).create()
    write_json(run.config_path, config or {"seed": seed})
    rows = [
        {"step": 5, "loss": 3.0},
        {"step": 10, "val_loss": 9.0, "val_loss_ema": 2.0},
        {"step": NUM_STEPS, "val_loss": 9.0, "val_loss_ema": val_loss},
    ]
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(
        run.result_path,
        {
            "num_steps": NUM_STEPS,
            "images_seen": NUM_STEPS * BATCH,
            "elapsed_seconds": 90.0,
            "torch": "2.0",
            "machine": "Abacus",
            "device": "cpu",
            "precision": "fp32",
            "export": {},
        },
    )
    write_json(folder / SCORES, {"overall": scenes, "clip_score": {"mean": clip}})
    cost = {"parameters": 1000, "forward_flops": 2_000_000}
    write_json(folder / CELL, {"variant": variant, "seed": seed, **cost})


RED = {0: (1.0, 0.10, 0.50), 1: (1.2, 0.20, 0.52), 2: (1.4, 0.30, 0.54)}
GREEN = {0: (0.9, 0.15, 0.49), 1: (1.1, 0.15, 0.51), 2: (1.29, 0.15, 0.53)}


def write_study(part):
    """Three seeds of red, three of green, one of blue."""
    for variant, of in {"red": RED, "green": GREEN, "blue": {0: (1.5, 0.1, 0.4)}}.items():
        for seed, values in of.items():
            write_run(part / f"{variant}-{seed}", variant, seed, *values)
