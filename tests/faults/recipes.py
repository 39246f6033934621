"""Heavy work for processes that are killed: a packaged recipe, as `rectiflow train` does it."""

from pathlib import Path

import torch
import torch.utils.tensorboard  # noqa: F401  (here, before the fork, as are the next)

import rectiflow.jobs.flow
import rectiflow.sampling.load  # noqa: F401
from rectiflow.jobs import run_training

torch.set_num_threads(1)

SETTINGS = [
    "training.num_steps=6",
    "training.batch_size=4",
    "training.warmup_steps=2",
    "training.precision=fp32",
    "training.log_every_steps=1",
    "training.validate_every_steps=2",
    "training.sample_every_steps=3",
    "training.checkpoint_every_steps=2",
    "training.retain.best=true",
    "training.averages.decays=[0.5]",
    "data.num_scenes=24",
    "data.num_validation=4",
    "data.size_px=64",
    "model.depth=1",
    "sampling.num_steps=2",
    "sampling.num_pictures=4",
]


def train(folder, *more):
    """A flow recipe from its first scene to its export: encodes, trains, validates, draws."""
    run_training("scenes-tiny", [*SETTINGS, *more], Path(folder), False, lambda *_: None)
