"""A small flow run for the tests of the loop: real network, real objective, made-up data.

As a program it is what the tests interrupt:  python -m tests.training.tiny RUN [name=value ...]
"""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from rectiflow import config
from rectiflow.conditioning import Conditioning
from rectiflow.data.draws import Draws
from rectiflow.data.order import Order
from rectiflow.flow.formulations import formulation
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.runs import Run
from rectiflow.training.hooks import Hooks
from rectiflow.training.loop import train
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.ranks import ALONE
from rectiflow.training.settings.training import TrainingSettings
from rectiflow.training.validation import FlowValidation


class TinySource:
    """Latents that are constant pictures, and texts that tell the constant."""

    def __init__(self, num_samples=24, seed=0):
        self.num_samples = num_samples
        self.order = Order(num_samples, seed)

    def batch(self, positions, draws):
        index = self.order.indices(positions)
        value = torch.from_numpy(index / self.num_samples * 2 - 1).float()
        latent = value[:, None, None, None].expand(-1, 2, 4, 4)
        states = torch.stack([value, value**2, value**3], dim=1)
        return {"latent": latent, "states": states, "ids": [f"sample {i}" for i in index]}


def assemble(states, keep):
    """Three encoders of one token and one channel each."""
    kept = torch.where(keep, states, 0.0)
    return Conditioning(kept[:, :, None], kept, segments=(2, 1))


def tiny_objective(seed=0):
    shape = MMDiTConfig(
        depth=2,
        head_width=8,
        patch_size=2,
        latent_channels=2,
        context_width=1,
        pooled_width=3,
        base_side=2,
        table_side=4,
    )
    model = MMDiT(shape)
    model.reset_parameters(torch.Generator().manual_seed(seed))
    return FlowObjective(model, formulation("rf/lognorm(0.00,1.00)"), 0.464, assemble)


def tiny_settings(**changes):
    defaults = dict(
        num_steps=12,
        batch_size=8,
        num_microbatches=2,
        warmup_steps=3,
        log_every_steps=2,
        validate_every_steps=5,
        checkpoint_every_steps=5,
        checkpoint_every_minutes=0.0,
        precision="fp32",
    )
    return TrainingSettings(**{**defaults, **changes})


def tiny_train(
    folder,
    settings=None,
    objective=None,
    on_progress=None,
    observers=(),
    source=None,
    ranks=ALONE,
):
    objective = objective or tiny_objective()
    hooks = Hooks(
        validate=FlowValidation(objective, TinySource(6, seed=9), seed=3, ranks=ranks),
        observers=observers,
        on_progress=on_progress,
    )
    settings = settings or tiny_settings()
    return train(
        objective,
        source or TinySource(),
        settings,
        Run(Path(folder)),
        seed=3,
        hooks=hooks,
        ranks=ranks,
    )


def _main():
    folder, *assignments = sys.argv[1:]
    given = config.override(dict, {}, assignments)
    kill_at, pause = given.pop("kill_at", None), given.pop("pause", 0.0)

    def on_progress(step, num_steps, metrics):
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()
        time.sleep(pause)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = config.from_dict(TrainingSettings, {**dataclasses.asdict(tiny_settings()), **given})
    result = tiny_train(folder, settings, on_progress=on_progress)
    sys.stdout.write(f"{result.status} {result.message}\n")


def shard_of(folder, group):
    """The one file of a group of tensors in a checkpoint that one process wrote."""
    (file,) = (folder / group).iterdir()
    return file


def draws(num, seed=3, start=0):
    return Draws(seed, np.arange(start, start + num, dtype=np.int64))


if __name__ == "__main__":
    _main()
