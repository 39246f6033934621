"""How a recipe is spread over processes, and one that torchrun starts."""

import json
import os
import subprocess
import sys

import pytest
import torch

from rectiflow.jobs.spreading import _advised, gpu_of, spreading_of
from rectiflow.runs import Run
from rectiflow.sealing import verify
from rectiflow.training.recipe import load_recipe

QUICK = [
    "data.num_scenes=16",
    "data.num_validation=5",
    "training.num_steps=2",
    "training.batch_size=5",
    "training.optimizer=adamw",
    "training.precision=fp32",
    "model.depth=1",
    "sampling.num_steps=2",
    "sampling.num_pictures=2",
]


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_a_card_is_known_by_the_name_that_cuda_gives_it(card, name):
    found = gpu_of(card)
    assert (found and found.name) == name


def test_auto_is_ddp_on_cpus_and_for_small_models():
    cpu, flow = torch.device("cpu"), load_recipe("scenes-tiny")
    assert spreading_of(flow, cpu, 1).kind == "auto"
    assert spreading_of(flow, cpu, 4).kind == "ddp"
    given = load_recipe("scenes-tiny", ["parallel.kind=fsdp"])
    assert spreading_of(given, cpu, 4).kind == "fsdp"
    assert spreading_of(load_recipe("autoencoder-tiny"), torch.device("cuda"), 4).kind == "ddp"
    with pytest.raises(ValueError, match=r"parallel.kind: fsdp and hsdp split .* got hsdp"):
        load_recipe("autoencoder-tiny", ["parallel.kind=hsdp"])


@pytest.mark.slow
def test_on_gpus_auto_is_what_a_plan_advises():
    assert _advised(load_recipe("scenes-tiny"), "NVIDIA H200", 8) == "ddp"
    large = load_recipe("scenes-tiny", ["model.depth=38", "training.batch_size=256"])
    assert _advised(large, "NVIDIA H100 80GB HBM3", 8) == "fsdp"
    # What 512 samples keep for the backward pass leaves no room for whole weights.
    middle = ["model.depth=24", "training.batch_size=4096"]
    assert _advised(load_recipe("scenes-tiny", middle), "NVIDIA H100 80GB HBM3", 8) == "fsdp"
    parts = load_recipe("scenes-tiny", [*middle, "training.num_microbatches=32"])
    assert _advised(parts, "NVIDIA H100 80GB HBM3", 8) == "ddp"
    assert _advised(large, "Tesla V100-SXM2-32GB", 8) == "ddp"


@pytest.mark.slow
def test_torchrun_trains_and_exports_as_one_process_does(tmp_path):
    def train(run, *command):
        line = [*command, "rectiflow", "train", "scenes-tiny", "--run", str(run), "--json"]
        line += [part for each in QUICK for part in ("--set", each)]
        done = subprocess.run(
            [*line, "--set", "parallel.kind=fsdp"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # one process alone tells

    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
    alone = train(tmp_path / "alone", sys.executable, "-m")
    spread = train(tmp_path / "spread", sys.executable, *torchrun)
    assert alone["status"] == spread["status"] == "finished"
    for name in ("val_loss", "val_loss_ema", "loss", "gradient_norm"):
        assert spread[name] == pytest.approx(alone[name], rel=1e-5)
    verify(Run(tmp_path / "spread").export)
    sheets = [Run(tmp_path / name).sheet_path(2) for name in ("alone", "spread")]
    assert all(sheet.is_file() for sheet in sheets)
