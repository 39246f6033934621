"""Bytes on a GPU by part, by hand, and of real networks as counted elsewhere."""

import dataclasses

import pytest
import torch

from rectiflow.bench.peak import peak_bytes
from rectiflow.bench.train import Task, our_loops
from rectiflow.nn.memory import training_bytes
from rectiflow.nn.releases import RELEASES
from rectiflow.planning.advice import Cluster, ways_of
from rectiflow.planning.memory import memory_parts, num_shards
from rectiflow.planning.workload import of_depth, workload_of
from rectiflow.training.settings.speed import SpeedSettings
from tests.planning.made_up import gpu, workload


def test_an_unsharded_gpu_holds_every_weight_five_times_and_its_copies():
    assert memory_parts(workload(), 1, 3, is_checkpointed=False) == {
        "weights": 4000 + 16,
        "gradients": 4000,
        "optimizer": 8000,
        "ema": 4000,
        "copies": 2000,
        "activations": 3 * 900,
        "total": 4016 + 4000 + 8000 + 4000 + 2000 + 2700,
    }


def test_in_one_pass_gradients_take_the_place_of_activations():
    def total(microbatch):
        return memory_parts(workload(), 1, microbatch, is_checkpointed=False, is_one_pass=True)[
            "total"
        ]

    assert total(3) == 4016 + 8000 + 4000 + (2000 + 2700)
    assert total(1) == 4016 + 8000 + 4000 + 4000  # more than copies and activations, 2900


def test_a_step_of_one_pass_is_planned_so_but_for_ddp():
    ways = ways_of(workload(), Cluster(gpu=gpu(), num_gpus=2, batch=6, num_averages=0))
    parts = {way.strategy: way.memory for way in ways}
    for strategy, memory in parts.items():
        passing = memory["copies"] + memory["activations"]
        shared = 0 if strategy == "ddp" else min(memory["gradients"], passing)
        assert memory["total"] == sum(memory.values()) - memory["total"] - shared


@pytest.mark.slow
def test_the_most_that_a_step_holds_is_measured_within_a_tenth():
    task = Task(depth=6, size_px=256, batch_size=4, device=torch.device("cpu"))
    loop = our_loops(task, {"eager": SpeedSettings()})["eager"]
    loop.step()  # makes the optimizer's averages
    work = workload_of(task.config, task.side, (77, 77))
    told = memory_parts(work, 1, 4, is_checkpointed=False, is_one_pass=True, num_averages=0)
    held = told["weights"] + told["optimizer"] + peak_bytes(loop.step, task.device)
    assert told["total"] == pytest.approx(held, rel=0.1)


def test_a_shard_is_its_part_of_the_weights_and_two_whole_blocks_with_their_gradients():
    parts = memory_parts(workload(), 8, 3, is_checkpointed=True)
    assert parts["weights"] == 4000 // 8 + 16
    assert [parts[name] for name in ("gradients", "optimizer", "ema")] == [500, 1000, 500]
    assert parts["copies"] == 2 * 100 * (4 + 4) + 2000 // 10  # and bf16 copies of one
    assert parts["activations"] == 3 * 200
    kept = memory_parts(workload(), 8, 3, is_checkpointed=False)
    assert kept["copies"] == 2 * 100 * (4 + 4) + 2000  # all that the backward pass needs


def test_muon_keeps_one_average_of_the_weights_it_takes():
    parts = memory_parts(workload(), 1, 1, is_checkpointed=False, optimizer="muon")
    assert parts["optimizer"] == 4 * (600 + 2 * 400)


def test_every_further_average_is_another_copy_of_the_weights():
    parts = memory_parts(workload(), 4, 1, is_checkpointed=False, num_averages=3)
    assert parts["ema"] == 3 * 4000 // 4


def test_a_kind_without_equal_blocks_is_not_checkpointed():
    with pytest.raises(ValueError, match="made-up has no equal blocks"):
        memory_parts(workload(checkpointed_bytes=None), 1, 1, is_checkpointed=True)


def test_shards_of_every_way():
    ways = {name: num_shards(name, 32, 8) for name in ("single", "ddp", "hsdp", "fsdp")}
    assert ways == {"single": 1, "ddp": 1, "hsdp": 8, "fsdp": 32}


@pytest.mark.parametrize("name", ["mmdit-d24", "sd3.5-medium"])
def test_memory_of_one_gpu_is_that_of_the_network(name):
    config = RELEASES[name]
    parts = memory_parts(workload_of(config, 32, (77, 77)), 1, 4, is_checkpointed=False)
    assert parts["total"] == training_bytes(config, 32, 32, 154, batch_size=4)["total"]


def test_what_a_training_step_keeps_is_what_was_measured_of_d12():
    """1328 MiB in docs/benchmarks.md: d12, batch 4, bf16, with copies, in the forms of the CPU."""
    config = dataclasses.replace(of_depth(RELEASES["mmdit-d24"], 12), qk_norm=True)
    work = workload_of(config, 32, (77, 77))
    assert 4 * work.kept_bytes + work.copy_bytes == pytest.approx(1328 * 2**20, rel=0.1)


def test_checkpoints_keep_what_enters_each_block_and_one_block_at_work():
    work = workload_of(RELEASES["mmdit-d24"], 32, (77, 77))
    assert work.checkpointed_bytes == 24 * 4 * 410 * 1536 + work.kept_bytes // 24
    assert work.checkpointed_bytes < work.kept_bytes / 5


def test_a_network_refuses_latents_that_it_does_not_take():
    with pytest.raises(ValueError, match="multiple of 2 for this model, got 33"):
        workload_of(RELEASES["mmdit-d24"], 33, (77, 77))
    with pytest.raises(ValueError, match="at most 384 for this model, got 400"):
        workload_of(RELEASES["mmdit-d24"], 400, (77, 77))
