"""A made-up formulation study whose scores follow the paper's ranks."""

import numpy as np

from rectiflow.runs import write_json
from rectiflow.scaling.measures import (
    SETTINGS,
    Features,
    Measures,
    Plan,
    Replicates,
    Scores,
    write_measures,
    write_plan,
)
from rectiflow.scaling.paper_values import TABLE_1

FEATURES = Features(name="scenes-tiny", width=64, num_reference=2000, hash="61c204a6")
NUM_REPLICATES = 20


def scores_of(setting, quality, rng, noise=1.0):
    """CLIP score falls and Frechet distance rises with `quality`, more so with fewer steps."""
    clip = 0.36 - 0.004 * quality - 0.2 / setting.num_steps + 0.003 * noise * rng.normal()
    frechet = 10 + quality * (1 + 20 / setting.num_steps) * np.exp(0.05 * noise * rng.normal())
    shifts = noise * np.random.default_rng(7).normal(size=(2, NUM_REPLICATES))
    return Scores(
        **setting._asdict(),
        num_pictures=128,
        clip=float(clip),
        frechet=float(frechet),
        bootstrap=Replicates(
            clip=tuple(clip + 0.004 * shifts[0] * rng.uniform(0.5, 1.5, NUM_REPLICATES)),
            frechet=tuple(frechet * (1.05 + 0.04 * shifts[1])),
        ),
    )


def made_up_run(name, seed, *, quality=None, noise=1.0, settings=SETTINGS, **changes):
    """A run of a formulation as good as the paper ranks it, unless said otherwise."""
    rng = np.random.default_rng([seed, *name.encode()])
    quality = TABLE_1[name].all if quality is None else quality
    values = {
        "step": 650 - 50 * (seed % 2),
        "num_steps": 700,
        "val_loss_ema": 0.5 + 0.01 * quality + 0.005 * rng.normal(),
        "velocity_error_ema": 0.5 + 0.02 * quality + 0.01 * rng.normal(),
        "path_length": {"path_length": 1.1 + 0.02 * quality, "loss_5_to_50_steps": 0.1 * quality},
        "scenes": 0.25 - 0.01 * quality,
        "features": FEATURES,
        "settings": tuple(scores_of(setting, quality, rng, noise) for setting in settings),
    }
    return Measures(formulation=name, seed=seed, **{**values, **changes})


def write_run(folder, run):
    """A kept folder, as far as the report reads it."""
    place = folder / f"{run.formulation.replace('/', '-')}-{run.seed}"
    if run.diverged is None:
        made_on = {"torch": "2.13.0", "machine": "Abacus", "device": "cpu", "precision": "bf16"}
        write_json(place / "result.json", made_on)
    write_measures(place, run)
    return place


def write_whole_study(folder, noise=1.0):
    """All 16 formulations with two seeds."""
    write_plan(folder, Plan(formulations=tuple(TABLE_1), seeds=(0, 1)))
    for name in TABLE_1:
        for seed in (0, 1):
            write_run(folder, made_up_run(name, seed, noise=noise))


def write_partial_study(folder):
    """Seven runs of 32: one formulation diverged, one has one seed, one lacks the 5-step scores."""
    write_plan(folder, Plan(formulations=tuple(TABLE_1), seeds=(0, 1)))
    for name in ("rf", "eps/linear"):
        for seed in (0, 1):
            write_run(folder, made_up_run(name, seed))
    write_run(folder, made_up_run("rf/lognorm(0.00,1.00)", 0))
    write_run(folder, made_up_run("v/cos", 0, settings=[s for s in SETTINGS if s.num_steps != 5]))
    write_run(
        folder,
        Measures(formulation="edm/cos", seed=0, step=0, num_steps=700, diverged="loss is nan"),
    )
