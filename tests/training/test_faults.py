"""What goes wrong around a run: a damaged newest checkpoint, a folder that cannot be written."""

import errno
import os
import signal

import pytest

from rectiflow import checkpoints, tensor_folder
from rectiflow.errors import DataError
from rectiflow.runs import Run
from rectiflow.training import checkpoint
from rectiflow.training.hooks import Hooks
from rectiflow.training.loop import train
from rectiflow.training.settings.sections import RetainSettings
from rectiflow.training.validation import FlowValidation
from tests.training.test_restart import Killed, assert_same_run, killing_at
from tests.training.tiny import TinySource, shard_of, tiny_objective, tiny_settings, tiny_train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny_train(folder)
    return Run(folder)


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def hidden(run):
    return sorted(path.name for path in run.checkpoints.iterdir() if path.name[0] == ".")


def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(undisturbed, tmp_path, caplog):
    run = Run(tmp_path)
    with pytest.raises(Killed):
        tiny_train(tmp_path, on_progress=killing_at(11))
    newest = checkpoints.newest(run)
    flip_a_byte(shard_of(newest, "model"))
    seen = []
    tiny_train(tmp_path, on_progress=lambda step, *_: seen.append(step))
    assert seen[0] == 6
    assert "checkpoint is damaged: " in caplog.text
    assert f"{newest / 'model' / 'shard-00001-model-00001-of-00001.safetensors'} is damaged" in (
        caplog.text
    )
    assert "going on from " + str(run.checkpoints / "step-00000005") in caplog.text
    assert_same_run(run, undisturbed)
    assert hidden(run) == [".damaged-step-00000010"]
    assert [path.name for path in checkpoints.list_checkpoints(run)] == [
        "step-00000010",
        "step-00000012",
    ]


def test_one_checkpoint_is_kept_though_a_damaged_one_is_newer(tmp_path):
    """A damaged one that still counted as the newest would have the whole one deleted."""
    run = Run(tmp_path)
    settings = tiny_settings(retain=RetainSettings(newest=2))
    with pytest.raises(Killed):
        tiny_train(tmp_path, settings, on_progress=killing_at(11))
    shard_of(checkpoints.newest(run), "ema").unlink()
    settings = tiny_settings(retain=RetainSettings(newest=1), checkpoint_every_steps=6)
    with pytest.raises(Killed):
        tiny_train(tmp_path, settings, on_progress=killing_at(7))
    assert [path.name for path in checkpoints.list_checkpoints(run)] == ["step-00000006"]


def test_a_run_without_a_whole_checkpoint_does_not_begin_again(tmp_path):
    run = Run(tmp_path)
    tiny_train(tmp_path, tiny_settings(num_steps=10))
    folders = checkpoints.list_checkpoints(run)
    for folder in folders:
        flip_a_byte(shard_of(folder, "model"))
    with pytest.raises(DataError, match=r"is whole: .*step-00000010.*; .*step-00000005"):
        tiny_train(tmp_path)
    assert checkpoints.list_checkpoints(run) == folders
    assert hidden(run) == []


# Validations come in pairs, of the weights and of their average: after 5, 10 and 12 steps.
@pytest.mark.parametrize(("call", "step"), [(4, 10), (5, 12)])
def test_sigterm_does_not_wait_for_the_end_of_a_validation(undisturbed, tmp_path, call, step):
    objective, num_calls, seen = tiny_objective(), [], []
    validation = FlowValidation(objective, TinySource(6, seed=9), seed=3)

    def validate(model):
        seen.append(step)
        if len(seen) == call:
            signal.raise_signal(signal.SIGTERM)
            objective.model.register_forward_hook(lambda *_: num_calls.append(1))
        return validation(model)

    run = Run(tmp_path)
    result = train(
        objective, TinySource(), tiny_settings(), run, seed=3, hooks=Hooks(validate=validate)
    )
    assert (result.status, result.step) == ("interrupted", step)
    assert num_calls == []
    assert checkpoint.load(checkpoints.newest(run)).state["owes_line"] is True
    assert run.result() is None
    tiny_train(tmp_path)
    assert_same_run(run, undisturbed)
    assert run.result()["metrics"]["val_loss"] == undisturbed.result()["metrics"]["val_loss"]


def test_a_folder_that_becomes_read_only_is_told_of_with_the_last_checkpoint(
    undisturbed, tmp_path, monkeypatch
):
    def refuse(folder, *rest):
        if "step-00000005" not in str(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        original(folder, *rest)

    original = tensor_folder.write
    monkeypatch.setattr(tensor_folder, "write", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written to: .*05, is intact; make it"):
        tiny_train(tmp_path)
    monkeypatch.undo()
    tiny_train(tmp_path)
    assert_same_run(Run(tmp_path), undisturbed)


def test_a_file_elsewhere_that_cannot_be_read_is_not_taken_for_the_folder(tmp_path):
    def fail(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/shard.arrow")

    with pytest.raises(PermissionError, match="elsewhere") as caught:
        tiny_train(tmp_path, on_progress=fail)
    assert caught.value.filename == "/elsewhere/shard.arrow"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot be written to"):
            tiny_train(tmp_path, on_progress=lambda *_: pytest.fail("a step was taken"))
    finally:
        tmp_path.chmod(0o700)
