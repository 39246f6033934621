"""The same training on any number of processes, spread in any way."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from rectiflow.config import to_dict
from rectiflow.runs import Run, without_clock
from rectiflow.training import checkpoint
from rectiflow.training.batches import Batches
from rectiflow.training.hooks import Hooks
from rectiflow.training.loop import train
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.settings.sections import GuardSettings
from rectiflow.training.settings.speed import SpeedSettings
from rectiflow.training.validation import FlowValidation
from tests.training.distributed.jobs import Job, ParallelSettings, run_job, training
from tests.training.test_divergence import Spoiled
from tests.training.tiny import TinySource, tiny_objective, tiny_settings

LAYOUTS = [(2, "ddp"), (2, "fsdp"), (4, "ddp"), (4, "fsdp"), (4, "hsdp")]


def settings_of(kind):
    return {"shard_size": 2} if kind == "hsdp" else {}


def compare(found, expected, rel=1e-5):
    """Losses of all steps, and what was logged, of a process against those of one alone."""
    assert found["losses"].keys() == expected["losses"].keys()
    for step, loss in expected["losses"].items():
        assert found["losses"][step] == pytest.approx(loss, rel=rel)
    for name in ("val_loss", "val_loss_ema", "gradient_norm", "velocity_error"):
        assert found["metrics"][name] == pytest.approx(expected["metrics"][name], rel=rel)


def test_every_sample_of_a_step_is_dealt_to_one_process_and_none_enters_twice():
    whole = [next(Batches(TinySource(), 3, 17, 2).after(5))[1].positions]
    dealt = [
        next(Batches(TinySource(), 3, 17, 2, ranks=Ranks(rank, 4)).after(5))[1].positions
        for rank in range(4)
    ]
    assert [len(part) for part in dealt] == [3, 2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(dealt), whole[0])


def test_two_processes_train_as_one_does_and_one_goes_on_where_two_stopped(tmp_path):
    # Odd: a process has one sample more than the other.
    settings = tiny_settings(optimizer="adamw", batch_size=9, num_steps=6)
    expected = training(ALONE, None, tmp_path / "alone", settings)
    for kind in ("ddp", "fsdp"):
        for found in run_job(2, kind, training, tmp_path / kind, settings):
            compare(found, expected)
        rows = [without_clock(row) for row in Run(tmp_path / kind).metrics()]
        told = [without_clock(row) for row in Run(tmp_path / "alone").metrics()]
        assert [row["step"] for row in rows] == [row["step"] for row in told]
        tenths, expected_tenths = (
            np.array(each[0]["loss_by_t"], dtype=float) for each in (rows, told)
        )
        np.testing.assert_allclose(tenths, expected_tenths, rtol=1e-5)
    longer = tiny_settings(optimizer="adamw", batch_size=9, num_steps=9)
    there = training(ALONE, None, tmp_path / "fsdp", longer)
    here = training(ALONE, None, tmp_path / "alone", longer)
    assert list(there["losses"]) == [7, 8, 9]
    compare(there, here)


@pytest.mark.slow
@pytest.mark.parametrize(("num", "kind"), LAYOUTS)
def test_losses_of_fifty_steps_are_those_of_one_process(tmp_path, num, kind):
    settings = tiny_settings(optimizer="adamw", num_steps=50, warmup_steps=5)
    expected = training(ALONE, None, tmp_path / "alone", settings)
    for found in run_job(num, kind, training, tmp_path / kind, settings, **settings_of(kind)):
        compare(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("num", "kind"), [(2, "ddp"), (4, "fsdp"), (4, "hsdp")])
def test_muon_trains_as_in_one_process(tmp_path, num, kind):
    settings = tiny_settings(num_steps=50, warmup_steps=5)
    expected = training(ALONE, None, tmp_path / "alone", settings)
    for found in run_job(num, kind, training, tmp_path / kind, settings, **settings_of(kind)):
        compare(found, expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("num", "kind"), [(4, "hsdp"), (2, "ddp"), (2, "fsdp"), (4, "fsdp")])
def test_a_run_resumes_bit_for_bit_on_as_many_and_alike_on_others(tmp_path, num, kind):
    whole = tiny_settings(optimizer="adamw", num_steps=14, decay="constant")
    half = tiny_settings(optimizer="adamw", num_steps=7, decay="constant")
    spread = settings_of(kind)
    undisturbed = run_job(num, kind, training, tmp_path / "whole", whole, **spread)[0]
    for name in ("same", "one"):
        run_job(num, kind, training, tmp_path / name, half, **spread)
    resumed = run_job(num, kind, training, tmp_path / "same", whole, **spread)[0]
    assert resumed["losses"] == {k: v for k, v in undisturbed["losses"].items() if k > 7}
    same, expected = (weights(tmp_path / name) for name in ("same", "whole"))
    for group, tensors in expected.items():
        for name, value in tensors.items():
            assert torch.equal(same[group][name], value), name
    alone = training(ALONE, None, tmp_path / "one", whole)
    for step, loss in alone["losses"].items():
        assert loss == pytest.approx(undisturbed["losses"][step], rel=1e-5)


def weights(folder):
    return checkpoint.load(checkpoint.newest_whole(Run(folder))).tensors


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradients_that_travel_in_bf16_are_rounded_and_no_more(tmp_path, kind):
    settings = tiny_settings(optimizer="adamw", num_steps=20)
    expected = training(ALONE, None, tmp_path / "alone", settings)
    found = run_job(2, kind, training, tmp_path / kind, settings, reduce_precision="bf16")[0]
    compare(found, expected, rel=1e-2)
    assert found["losses"] != expected["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_compiled_blocks_that_forget_train_alike_over_processes(tmp_path, kind):
    speed = SpeedSettings(compile="blocks", activation_checkpointing="selective")
    settings = tiny_settings(optimizer="adamw", num_steps=4, validate_every_steps=2)
    expected = training(ALONE, None, tmp_path / "alone", settings)
    found = run_job(2, kind, training, tmp_path / kind, replace(settings, speed=speed))[0]
    compare(found, expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_sample_that_spoils_the_loss_of_one_process_is_named_in_all(tmp_path, kind):
    settings = tiny_settings(optimizer="adamw")
    source = Spoiled({9}, torch.inf)
    job = Job(2, ParallelSettings(kind=kind), training, tmp_path, settings, source)
    told = [job.last(rank) for rank in range(2)]
    job.end()
    sample = int(source.order.indices(np.array([9]))[0])
    for each in told:
        assert each[:2] == ("raised", "NonFiniteError")
        assert each[2].startswith("the loss is not finite at step 2; first not finite: latent of")
        assert each[2].endswith(f"; 1 samples: sample {sample}")
    assert Run(tmp_path).diverged()["why"] == told[0][2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_processes_roll_back_together(tmp_path, kind):
    guard = GuardSettings(on_divergence="roll_back")
    settings = tiny_settings(optimizer="adamw", guard=guard, checkpoint_every_steps=3)
    source = Spoiled({45}, torch.inf)
    expected = training(ALONE, None, tmp_path / "alone", settings, source)
    found = run_job(2, kind, training, tmp_path / kind, settings, source)
    assert found[0]["status"] == "finished"
    compare(found[1], expected)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tmp_path):
    settings = tiny_settings(optimizer="adamw", num_steps=5000, checkpoint_every_steps=0)
    job = Job(2, ParallelSettings(kind="fsdp"), training, tmp_path, settings)
    for rank in range(2):
        while job.next(rank)[1] < 5:
            pass
    os.kill(job.processes[1].pid, signal.SIGTERM)
    told = job.results()
    assert [each["status"] for each in told] == ["interrupted"] * 2
    last = max(told[0]["losses"])
    assert checkpoint.newest_whole(Run(tmp_path)).name == f"step-{last:08d}"


def stopped_while_it_validates(ranks, pipe, folder, settings):
    """SIGTERM reaches the last process while the average is in the weights' place."""
    objective = tiny_objective()
    # One sample: most processes have none of their own.
    validation = FlowValidation(objective, TinySource(1, seed=9), seed=3, ranks=ranks)
    calls = []

    def validate(model):
        calls.append(model)
        if len(calls) == 2 and ranks.rank == ranks.num - 1 and pipe is not None:
            os.kill(os.getpid(), signal.SIGTERM)
        return validation(model)

    hooks = Hooks(validate=validate)
    return train(objective, TinySource(), settings, Run(folder), seed=3, hooks=hooks, ranks=ranks)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_signal_during_validation_stops_all_and_the_run_goes_on_as_if_nothing_was(tmp_path, kind):
    settings = tiny_settings(optimizer="adamw")
    for result in run_job(2, kind, stopped_while_it_validates, tmp_path / kind, settings):
        assert (result.status, result.step) == ("interrupted", 5)
    runs = [Run(tmp_path / name) for name in (kind, "alone")]
    assert [row["step"] for row in runs[0].metrics()] == [2, 4]
    for run in runs:
        result = stopped_while_it_validates(ALONE, None, run.folder, settings)
        assert (result.status, result.step) == ("finished", 12)
    found, expected = (run.metrics() for run in runs)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for name in ("val_loss", "val_loss_ema"):
        values = [[row[name] for row in rows if name in row] for rows in (found, expected)]
        assert len(values[0]) == 3
        assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "victim"), [("SIGKILL", 1), ("SIGSTOP", 1), ("SIGKILL", 0)])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_dead_process_ends_the_job_with_its_name(tmp_path, kind, number, victim):
    settings = tiny_settings(optimizer="adamw", num_steps=50_000)
    spread = ParallelSettings(kind=kind, timeout_seconds=4)
    job = Job(2, spread, training, tmp_path, settings)
    for rank in range(2):
        while job.next(rank)[1] < 3:
            pass
    process = job.processes[victim]
    os.kill(process.pid, getattr(signal, number))
    survivor = 1 - victim
    told = job.last(survivor)
    job.processes[survivor].join(30)
    assert not job.processes[survivor].is_alive()
    if number == "SIGKILL":  # the connection breaks; who was stopped keeps his
        assert told[:2] == ("raised", "LostRankError"), told
        assert f"rank {victim}" in told[2]
        assert victim == 0 or f"process {process.pid}" in told[2]
    else:
        assert told == ("gone",)
        assert job.processes[survivor].exitcode == 1
    process.kill()
    job.end()


def test_the_settings_of_a_recipe_are_free(tmp_path):
    assert to_dict(ParallelSettings())["kind"] == "auto"
    with pytest.raises(ValueError, match="shard_size must be 0 unless kind is hsdp, got 4"):
        ParallelSettings(kind="fsdp", shard_size=4)
