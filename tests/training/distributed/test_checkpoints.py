"""Checkpoints of several processes: written together, read by any other number of them."""

import copy
import errno
import time

import pytest
import torch
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from rectiflow import checkpoints, tensor_folder
from rectiflow.runs import Run
from rectiflow.training import checkpoint
from rectiflow.training.averages import reconstruct
from rectiflow.training.best import best
from rectiflow.training.checkpoint import Checkpoint
from rectiflow.training.ema import Ema, exponential, named_tensors
from rectiflow.training.parallel import shard
from rectiflow.training.settings.sections import AveragesSettings, RetainSettings
from rectiflow.training.writer import CheckpointWriter
from tests.training.distributed.jobs import run_job, training
from tests.training.tiny import (
    TinySource,
    assemble,
    draws,
    tiny_objective,
    tiny_settings,
    tiny_train,
)

SHAPES = {"even": (8, 3), "uneven": (7, 2, 2), "few": (3, 5), "one": (1,), "vector": (9,)}


def whole():
    """Tensors whose every value is another; scalars and counters beside them."""
    start, tensors = 0, {}
    for name, shape in SHAPES.items():
        num = torch.Size(shape).numel()
        tensors[name] = torch.arange(start, start + num, dtype=torch.float32).view(shape) / 7
        start += num
    tensors["half"] = tensors["even"].bfloat16() + 1
    tensors["even/step"], tensors["count"] = torch.tensor(5.0), torch.tensor(2**40)
    return tensors


def spread(tensors, ranks):
    """As a job of its kind holds them: split where it splits, whole where it does not."""
    if ranks.mesh is None or ranks.mesh.mesh_dim_names == ("replicate",):
        return tensors
    places = [Replicate(), Shard(0)] if ranks.mesh.ndim == 2 else [Shard(0)]
    return {
        name: distribute_tensor(tensor, ranks.mesh, places) if tensor.ndim else tensor
        for name, tensor in tensors.items()
    }


def gathered(tensors):
    return {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in tensors.items()}


def save(ranks, pipe, folder):
    """What changes after a checkpoint was asked for does not enter it."""
    tensors = spread(whole(), ranks)
    writer = CheckpointWriter(Run(folder), ranks)
    contents = Checkpoint(7, {"model": tensors, "optimizer": tensors}, {"note": 1.5})
    writer.write(checkpoint.save, contents, RetainSettings())
    for tensor in tensors.values():
        tensor_folder.local_part(tensor).zero_()
    writer.finish()


def load(ranks, pipe, folder):
    found = checkpoint.newest_whole(Run(folder), ranks)
    targets = spread({name: torch.zeros_like(each) for name, each in whole().items()}, ranks)
    checkpoint.load_into(found, {"model": targets, "optimizer": targets}, ranks)
    return {name: tensor.tolist() for name, tensor in gathered(targets).items()}


def fail(ranks, pipe, folder):
    """The disk of the last process is full; each tells what it is told."""
    if ranks.rank == ranks.num - 1:

        def write(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        tensor_folder.Snapshot.lookup_object = write
    try:
        save(ranks, pipe, folder)
    except OSError as error:
        return error.errno
    return None


def train_on_a_full_disk(ranks, pipe, folder, settings):
    """The last process finds out first, while the others train on."""
    if ranks.rank == ranks.num - 1:

        def write(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        tensor_folder.Snapshot.lookup_object = write
    else:
        work = CheckpointWriter._work

        def late(*arguments):
            work(*arguments)
            time.sleep(0.5)

        CheckpointWriter._work = late
    seen = []

    def on_progress(step, *_):
        seen.append(step)

    try:
        tiny_train(folder, settings, on_progress=on_progress, ranks=ranks)
    except OSError as error:
        return type(error).__name__, str(error), seen[-1]
    return "finished", "", seen[-1]


def average(ranks, pipe):
    """The largest difference to one process: of averages, outputs with them, and weights after."""
    alone = tiny_objective().model
    apart = copy.deepcopy(alone)
    shard(apart, ranks)
    averages = [Ema(model, exponential(0.9)) for model in (alone, apart)]
    for step in (1, 2, 3):
        for model, ema in zip((alone, apart), averages, strict=True):
            with torch.no_grad():
                for tensor in model.parameters():
                    part = tensor_folder.local_part(tensor)
                    part.copy_(part * 0.9 + 0.01 * step)
            ema.update(step)
    differences = [_apart(averages[0].tensors, averages[1].tensors)]
    outputs = []
    for model, ema in zip((alone, apart), averages, strict=True):
        with torch.no_grad():
            before = _output(model)
            with ema.applied():
                outputs.append(_output(model))
            assert torch.equal(_output(model), before)
            assert not torch.allclose(before, outputs[-1])
    differences.append((outputs[0] - outputs[1]).abs().max().item())
    differences.append(_apart(named_tensors(alone), named_tensors(apart)))
    return differences


def _output(model):
    batch = TinySource().batch(torch.arange(4).numpy(), draws(4))
    keep = torch.ones(4, 3, dtype=torch.bool)
    return model(batch["latent"].clone(), torch.full((4,), 0.5), assemble(batch["states"], keep))


def _apart(ours, theirs):
    found = gathered(theirs)
    return max((tensor - found[name]).abs().max().item() for name, tensor in ours.items())


def assert_whole(folder, num):
    (found,) = checkpoints.list_checkpoints(Run(folder))
    assert [path.name for path in found.parent.iterdir()] == [found.name]
    names = [f"shard-{k:05d}-model-00001-of-00001.safetensors" for k in range(1, num + 1)]
    for group in ("model", "optimizer"):
        assert sorted(path.name for path in (found / group).iterdir()) == names
    read = checkpoint.load(found)
    assert (read.step, read.state) == (7, {"note": 1.5})
    for group in ("model", "optimizer"):
        assert read.tensors[group].keys() == whole().keys()
        for name, tensor in whole().items():
            assert torch.equal(read.tensors[group][name], tensor), name
            assert read.tensors[group][name].dtype == tensor.dtype
    assert load(checkpoint.ALONE, None, folder) == {n: t.tolist() for n, t in whole().items()}


def test_two_processes_write_what_one_reads(tmp_path):
    run_job(2, "fsdp", save, tmp_path)
    assert_whole(tmp_path, 2)


def test_averages_of_split_weights_are_those_of_whole_ones():
    for differences in run_job(2, "fsdp", average):
        assert differences[0] == differences[2] == 0
        assert differences[1] < 1e-6


def test_a_full_disk_of_one_process_is_told_to_all_and_leaves_nothing(tmp_path):
    assert run_job(2, "fsdp", fail, tmp_path) == [errno.ENOSPC] * 2
    assert not any((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_disk_that_fills_up_ends_all_processes_at_one_step_with_the_same_words(tmp_path, kind):
    settings = tiny_settings(optimizer="adamw", num_steps=5000, validate_every_steps=0)
    told = run_job(2, kind, train_on_a_full_disk, tmp_path, settings)
    assert told[0] == told[1]
    assert told[0][0] == "DiskFullError"
    assert "is full; of the checkpoints none was written before" in told[0][1]
    assert 5 <= told[0][2] < 4999


@pytest.mark.slow
def test_what_split_runs_keep_beside_their_checkpoints_is_what_one_process_keeps(tmp_path):
    """The best weights and averages of any width; stopped after 8 steps and gone on by fewer."""
    averages = AveragesSettings(decays=(0.5,), widths=(0.05, 0.2), snapshot_every_steps=2)
    rest = {"optimizer": "adamw", "averages": averages, "retain": RetainSettings(best=True)}
    settings = [tiny_settings(num_steps=num, decay="constant", **rest) for num in (8, 12)]
    training(checkpoint.ALONE, None, tmp_path / "alone", settings[1])
    run_job(3, "fsdp", training, tmp_path / "apart", settings[0])
    run_job(2, "fsdp", training, tmp_path / "apart", settings[1])
    alone, apart = Run(tmp_path / "alone"), Run(tmp_path / "apart")
    kept = [[path.name for path in checkpoints.list_averages(run)] for run in (alone, apart)]
    assert kept[0] == kept[1] == [f"averages-{step:08d}" for step in range(2, 13, 2)]
    pairs = [(reconstruct(run, 0.12).tensors, best(run).tensors["ema"]) for run in (alone, apart)]
    for ours, theirs in zip(*pairs, strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            # A weight moves by 1e-3 a step; AdamW makes much of the roundings of small gradients.
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)
    assert best(alone).step == best(apart).step


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
@pytest.mark.parametrize(("num", "after"), [(4, "fsdp"), (4, "ddp"), (2, "fsdp")])
def test_any_number_of_processes_reads_what_any_other_wrote(tmp_path, kind, num, after):
    settings = {"shard_size": 2} if kind == "hsdp" else {}
    run_job(num, kind, save, tmp_path, **settings)
    assert_whole(tmp_path, num)
    expected = {name: tensor.tolist() for name, tensor in whole().items()}
    for other in {2, 4} - {num} | {3}:
        assert run_job(other, after, load, tmp_path) == [expected] * other
