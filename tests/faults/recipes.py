"""Heavy work for processes that are killed, as `rectiflow train` and `rectiflow evaluate` do it."""

import itertools
import shutil
import time
from pathlib import Path

import torch
import torch.utils.tensorboard

import rectiflow.evaluation.measures
import rectiflow.evaluation.suite
import rectiflow.jobs.flow
import rectiflow.sampling.load
from rectiflow.cli.main import main
from rectiflow.errors import DataError
from rectiflow.jobs import run_training

torch.set_num_threads(1)
rectiflow.evaluation.suite.BATCH = 5

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


def train_while_the_store_goes(folder, at_step):
    """The same; its store is deleted after a step, and either it needs it no more or says so."""
    seen = []

    def progress(stage, done, *_):
        if stage == "training" and done == at_step and not seen:
            seen.append(done)
            shutil.rmtree(Path(folder).parent / "stores")

    try:
        run_training("scenes-tiny", SETTINGS, Path(folder), False, progress)
    except (FileNotFoundError, DataError) as error:
        is_told = "stores" in str(error) and "\n" not in str(error)
        if not is_told:
            raise
    assert seen


def train_while_clocks_jump(folder):
    """The same; the clock of the wall jumps back and forth by days."""
    honest, jumps = time.time, itertools.cycle((0.0, 3e6, -3e6, 1e9, -1e9))
    time.time = lambda: honest() + next(jumps)
    try:
        train(folder)
    finally:
        time.time = honest


def evaluate(run, folder):
    """Twelve pictures in three batches, their scores and controls."""
    few = ["--prompts-per-task", "1", "--steps", "1", "--guidance", "1"]
    assert main(["evaluate", "--run", run, "--out", folder, *few]) == 0
