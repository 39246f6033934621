"""The checkpoint of least validation loss: which step it is, and that a kill does not change it."""

import json
import signal

import pytest
import torch

from rectiflow import checkpoints
from rectiflow.errors import NonFiniteError
from rectiflow.runs import Run
from rectiflow.training import checkpoint
from rectiflow.training.best import BestKeeper, best, metrics_of
from rectiflow.training.ema import Ema, copy_into, exponential, named_tensors
from rectiflow.training.hooks import Hooks
from rectiflow.training.loop import train
from rectiflow.training.optim import Optimizers
from rectiflow.training.settings.sections import RetainSettings
from rectiflow.training.state import TrainState
from rectiflow.training.validation import FlowValidation
from rectiflow.training.writer import CheckpointWriter
from tests.training.test_restart import Killed, finish, killing_at
from tests.training.tiny import TinySource, tiny_objective, tiny_settings, tiny_train

# A rate so high that the loss falls and rises again.
SETTINGS = dict(
    retain=RetainSettings(best=True),
    validate_every_steps=1,
    optimizer="adamw",
    learning_rate=0.2,
    warmup_steps=10,
    decay="constant",
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uninterrupted(tmp_path):
    run = Run(tmp_path / "uninterrupted")
    tiny_train(run.folder, tiny_settings(**SETTINGS))
    return run


def made_up_state(folder):
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, exponential(0.9))
    return TrainState(Run(folder), model, ema, Optimizers(tiny_objective(), tiny_settings()))


def test_the_step_of_least_loss_is_kept_and_no_other(tmp_path):
    state = made_up_state(tmp_path)
    writer = CheckpointWriter(state.run)
    keeper = BestKeeper(state.run, 0, writer)
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.0, 1.5], start=1):
        state.step = step
        state.model.weight.data.fill_(step)
        state.ema.tensors["weight"].fill_(-step)
        keeper.offer(state, {"val_loss": 9.0, "val_loss_ema": loss})
    writer.finish()
    assert [folder.name for folder in checkpoints.list_best(state.run)] == ["best-00000002"]
    kept = best(state.run)
    assert (kept.step, metrics_of(kept)) == (2, {"val_loss": 9.0, "val_loss_ema": 1.0})
    assert kept.tensors["model"]["weight"].item() == 2
    assert kept.tensors["ema"]["weight"].item() == -2
    assert checkpoints.newest(state.run) is None  # it is no place to go on from


def test_a_kill_between_writing_and_removing_leaves_two_of_which_the_better_counts(
    tmp_path, monkeypatch
):
    state = made_up_state(tmp_path)
    monkeypatch.setattr(checkpoint, "_remove", lambda folder: None)
    for step, loss in ((4, 1.0), (8, 0.5)):
        state.step = step
        writer = CheckpointWriter(state.run, is_async=False)
        BestKeeper(state.run, step, writer).offer(state, {"val_loss_ema": loss})
    assert len(checkpoints.list_best(state.run)) == 2
    assert best(state.run).step == 8


def test_what_is_kept_are_the_weights_of_which_the_loss_was_measured(uninterrupted):
    rows = [row for row in uninterrupted.metrics() if "val_loss_ema" in row]
    least = min(rows, key=lambda row: row["val_loss_ema"])
    kept = best(uninterrupted)
    assert kept.step == least["step"]
    assert 1 < kept.step < 12  # else the test would prove nothing
    assert metrics_of(kept)["val_loss"] == least["val_loss"]
    objective = tiny_objective()
    validation = FlowValidation(objective, TinySource(6, seed=9), seed=3)
    for group, name in (("ema", "val_loss_ema"), ("model", "val_loss")):
        copy_into(named_tensors(objective.model), kept.tensors[group], group)
        objective.model.eval()
        assert validation(objective.model)["val_loss"] == least[name]


def test_a_killed_run_keeps_bit_for_bit_what_an_uninterrupted_one_keeps(uninterrupted, tmp_path):
    """Killed where its best is newer than its last checkpoint; and before any checkpoint."""
    expected = best(uninterrupted)
    late, early = Run(tmp_path / "late"), Run(tmp_path / "early")
    plain = {key: value for key, value in SETTINGS.items() if key != "retain"}
    words = [f"{key}={json.dumps(value)}" for key, value in plain.items()]
    words += ["retain={best = true}", "async_checkpoints=false"]  # killed right after a write
    assert finish(late.folder, *words, f"kill_at={expected.step}")[0] == -signal.SIGKILL
    with pytest.raises(Killed):
        tiny_train(early.folder, tiny_settings(**SETTINGS), on_progress=killing_at(4))
    for run, best_then in ((late, expected.step), (early, 3)):
        assert best(run).step == best_then
        tiny_train(run.folder, tiny_settings(**SETTINGS))
        kept = best(run)
        assert (kept.step, kept.state) == (expected.step, expected.state)
        for group in ("model", "ema"):
            for key, tensor in expected.tensors[group].items():
                assert torch.equal(kept.tensors[group][key], tensor)


def test_a_run_that_is_not_asked_keeps_none(tmp_path):
    tiny_train(tmp_path, tiny_settings(num_steps=2, validate_every_steps=1))
    assert best(Run(tmp_path)) is None


def test_a_run_that_diverges_leaves_a_note_and_a_repaired_one_removes_it(tmp_path):
    objective, run = tiny_objective(), Run(tmp_path)
    losses = iter([1.0, 1.0, float("nan")])
    hooks = Hooks(validate=lambda model: {"val_loss": next(losses, 1.0)})
    settings = tiny_settings(validate_every_steps=3)
    with pytest.raises(NonFiniteError, match="val_loss is not finite at step 6"):
        train(objective, TinySource(), settings, run, seed=3, hooks=hooks)
    assert run.diverged() == {"step": 6, "why": "val_loss is not finite at step 6"}
    assert run.result() is None
    train(objective, TinySource(), settings, run, seed=3, hooks=hooks)
    assert run.diverged() is None
    assert run.result()["status"] == "finished"


def test_what_a_kill_left_beside_the_best_goes_when_the_run_goes_on(tmp_path):
    state, writer = made_up_state(tmp_path), CheckpointWriter(Run(tmp_path), is_async=False)
    for step, loss in ((4, 1.0), (8, 0.5)):
        state.step = step
        BestKeeper(state.run, step, writer).offer(state, {"val_loss_ema": loss})
        (folder,) = checkpoints.list_best(state.run)
        folder.rename(tmp_path / folder.name)
    for name in ("best-00000004", "best-00000008"):
        (tmp_path / name).rename(state.run.checkpoints / name)
    keeper = BestKeeper(state.run, 8, writer)
    assert [folder.name for folder in checkpoints.list_best(state.run)] == ["best-00000008"]
    keeper.offer(state, {"val_loss_ema": 0.7})
    assert best(state.run).step == 8


def test_a_damaged_best_is_set_aside_and_the_run_goes_on(tmp_path, caplog):
    state, writer = made_up_state(tmp_path), CheckpointWriter(Run(tmp_path), is_async=False)
    state.step = 4
    BestKeeper(state.run, 4, writer).offer(state, {"val_loss_ema": 0.5})
    (damaged,) = checkpoints.list_best(state.run)
    (damaged / "state.json").write_text("{")
    state.step = 8
    BestKeeper(state.run, 8, writer).offer(state, {"val_loss_ema": 0.9})
    assert str(damaged / "state.json") in caplog.text
    assert "set aside as" in caplog.text
    assert best(state.run).step == 8
