"""Light work for processes that are killed: training on a made-up source, preparing, evaluating."""

from pathlib import Path

import numpy as np
import torch
import torch.utils.tensorboard

from rectiflow.evaluation import suite
from rectiflow.evaluation.kept import KeptPictures
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.evaluation.suite import SuiteSettings
from rectiflow.preparation.prepare import Batching, prepare_store
from rectiflow.training.settings.sections import AveragesSettings, RetainSettings
from tests.preparation.fakes import FakeRecords, fake_encoders
from tests.training.tiny import tiny_settings, tiny_train

torch.set_num_threads(1)
suite.BATCH = 2


def draw_sheet(state):
    """An observer: a sheet that tells the step and the averaged weights."""
    state.run.samples.mkdir(exist_ok=True)
    weight = next(iter(state.ema.tensors.values())).double().sum().item()
    state.run.sheet_path(state.step).write_text(f"{state.step} {weight!r}")
    return {}


class Killed(BaseException):
    """What a kill is to a run inside this process."""


def train(folder, kill_at=None):
    """Twelve steps with everything that a run's folder can keep."""

    def on_progress(step, *_):
        if step == kill_at:
            raise Killed

    settings = tiny_settings(
        sample_every_steps=3,
        validate_every_steps=2,
        checkpoint_every_steps=2,
        averages=AveragesSettings(decays=(0.5,), widths=(0.1,), snapshot_every_steps=2),
        retain=RetainSettings(best=True, every_steps=4, num_averages=3, num_sheets=2),
    )
    result = tiny_train(folder, settings, on_progress=on_progress, observers=[draw_sheet])
    assert result.status == "finished"


def encode(folder):
    """A store of ten shards."""
    batching = Batching(batch_size=2, records_per_shard=4, num_threads=2)
    prepare_store(FakeRecords(40, bad=frozenset({3, 17})), fake_encoders(), folder, batching)


def evaluate(folder):
    """Six pictures in three batches, of one colour each, and their scores."""

    def draw(_, seeds):
        return [np.full((32, 32, 3), seed % 256, np.uint8) for seed in seeds]

    settings = SuiteSettings(images_per_prompt=2, controls=False)
    kept = KeptPictures(Path(folder), {"seed": 0})
    suite.evaluate_pictures(draw, load_prompts()[:3], settings, kept=kept)
