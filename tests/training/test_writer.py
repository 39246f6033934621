"""Checkpoints are written beside the training, in order, and their failures are told."""

import os
import threading

import pytest
import torch

from rectiflow import checkpoints
from rectiflow.errors import DataError
from rectiflow.runs import Run
from rectiflow.training import checkpoint
from rectiflow.training.checkpoint import Checkpoint
from rectiflow.training.settings.sections import RetainSettings
from rectiflow.training.writer import CheckpointWriter
from tests.training.tiny import shard_of

RETAIN = RetainSettings(newest=9)


def made_up(step, weight):
    return Checkpoint(step, {"model": {"weight": weight}}, {"told": step})


def test_training_goes_on_while_what_was_asked_for_is_written(tmp_path):
    """Held up at its first byte, a checkpoint still has the values of when it was asked for."""
    run, let_go, seen = Run(tmp_path), threading.Event(), []

    def save(*arguments):
        seen.append(threading.current_thread())
        assert let_go.wait(10)
        return checkpoint.save(*arguments)

    weight = torch.tensor([1.0, 2.0]).t()
    with CheckpointWriter(run) as writer:
        writer.write(save, made_up(3, weight), RETAIN)
        weight.mul_(10)
        assert not writer.has_failed  # as far as it knows: it waits for nothing
        assert checkpoints.newest(run) is None
        let_go.set()
        writer.write(checkpoint.save, made_up(4, weight), RETAIN)  # waits for the one before
        assert checkpoints.list_checkpoints(run)[0].name == "step-00000003"
    assert seen[0] is not threading.main_thread()
    weights = [checkpoints.load_group(f, "model") for f in checkpoints.list_checkpoints(run)]
    assert [each["weight"].tolist() for each in weights] == [[1.0, 2.0], [10.0, 20.0]]


def test_every_byte_is_on_the_disk_before_a_checkpoint_has_its_name(tmp_path, monkeypatch):
    synced, names = {}, []
    fsync, rename = os.fsync, os.rename

    def note(descriptor):
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_size
        fsync(descriptor)

    def publish(source, target):
        for path in source.rglob("*.*"):
            status = path.stat()
            names.append((path.name, synced.get(status.st_ino) == status.st_size > 0))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", publish)
    checkpoint.save(Run(tmp_path), made_up(3, torch.ones(5)), RETAIN)
    assert sorted(names) == [
        ("shard-00001-model-00001-of-00001.safetensors", True),
        ("state.json", True),
    ]


def test_without_a_thread_it_is_there_when_asked_for(tmp_path):
    writer = CheckpointWriter(Run(tmp_path), is_async=False)
    writer.write(checkpoint.save, made_up(3, torch.ones(1)), RETAIN)
    assert checkpoint.load(checkpoints.newest(Run(tmp_path))).state == {"told": 3}


def leave(writer):
    with writer:
        pass


def write(writer):
    writer.write(checkpoint.save, made_up(4, torch.ones(1)), RETAIN)


@pytest.mark.parametrize("ask", [CheckpointWriter.finish, write, leave], ids=lambda f: f.__name__)
def test_a_failure_is_told_once_by_whatever_is_asked_next(tmp_path, ask):
    def fail(*_):
        raise OSError(28, "No space left on device")

    writer = CheckpointWriter(Run(tmp_path))
    writer.write(fail, made_up(3, torch.ones(1)), RETAIN)
    writer._thread.join()
    assert writer.has_failed
    with pytest.raises(OSError, match="No space left"):
        ask(writer)
    writer.finish()
    assert not writer.has_failed
    assert checkpoints.newest(Run(tmp_path)) is None


def test_an_error_of_the_training_lets_a_checkpoint_be_ended(tmp_path):
    def train():
        with CheckpointWriter(Run(tmp_path)) as writer:
            writer.write(checkpoint.save, made_up(3, torch.ones(1)), RETAIN)
            raise RuntimeError("of the training")

    with pytest.raises(RuntimeError, match="of the training"):
        train()
    assert checkpoint.load(checkpoints.newest(Run(tmp_path))).step == 3


def test_groups_are_read_by_name_and_a_foreign_file_is_no_part_of_them(tmp_path):
    writer = CheckpointWriter(Run(tmp_path))
    writer.write(checkpoint.save, made_up(3, torch.ones(1)), RETAIN)
    writer.finish()
    found = checkpoints.newest(Run(tmp_path))
    with pytest.raises(ValueError, match="has no tensors named ema; it has model"):
        checkpoints.load_group(found, "ema")
    with pytest.raises(ValueError, match=r"bias is missing from model of the checkpoint"):
        checkpoint.load_into(found, {"model": {"weight": torch.ones(1), "bias": torch.ones(1)}})
    with pytest.raises(ValueError, match=r"weight has shape \(1,\) in model of the checkpoint"):
        checkpoint.load_into(found, {"model": {"weight": torch.ones(2)}})
    content = shard_of(found, "model").read_bytes()
    (found / "model" / "shard-00002-model-00001-of-00001.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00002-.* does not belong there"):
        checkpoints.load_group(found, "model")
