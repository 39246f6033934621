"""Another average of a run's weights, as a bundle that draws."""

import json
from pathlib import Path

import pytest
import torch

from rectiflow import checkpoints
from rectiflow.cli.main import main
from rectiflow.jobs import run_training
from rectiflow.jobs.averaging import export_average
from rectiflow.runs import Run
from rectiflow.sampling.load import load
from rectiflow.training import checkpoint
from rectiflow.training.averages import reconstruct

SETTINGS = [
    "training.num_steps=2",
    "training.batch_size=2",
    "training.warmup_steps=0",
    "training.attention_blocks=1",
    "training.averages.decays=[0.3]",
    "training.averages.widths=[0.05, 0.2]",
    "training.averages.snapshot_every_steps=1",
    "data.size_px=32",
    "data.num_scenes=4",
    "data.num_validation=1",
    "model.depth=1",
    "sampling.num_steps=1",
    "sampling.num_pictures=1",
]


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "flow"
    run_training("scenes-tiny", SETTINGS, folder, False, lambda *_: None)
    return Run(folder)


def test_an_average_of_any_width_becomes_a_bundle_with_its_weights(flow, tmp_path, capsys):
    out = tmp_path / "bundle"
    arguments = ["model", "average", "--run", str(flow.folder), "--out", str(out), "--json"]
    assert main([*arguments, "--width", "0.1"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["step"], facts["made_of"]) == (0.1, 2, 4)
    expected = reconstruct(flow, 0.1)
    assert facts["profile_error"] == pytest.approx(expected.error)
    weights = load(out).network.state_dict()
    for name, tensor in expected.tensors.items():
        assert torch.equal(weights[name], tensor)
    averaged = checkpoint.load(checkpoints.newest(flow)).tensors["ema"]
    assert any(not torch.equal(weights[name], averaged[name]) for name in averaged)
    assert main([*arguments, "--width", "0.1"]) == 2
    assert "is there already; choose another folder" in capsys.readouterr().err


def test_a_further_decay_becomes_a_bundle_as_it_is(flow, tmp_path):
    export_average(flow.folder, tmp_path / "bundle", decay=0.3)
    weights = load(tmp_path / "bundle").network.state_dict()
    tracked = checkpoint.load(checkpoints.newest(flow)).tensors["ema_0.3"]
    for name, tensor in tracked.items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "give a width or a decay, exactly one, got None and None"),
        ({"width": 0.1, "decay": 0.3}, "exactly one, got 0.1 and 0.3"),
        ({"decay": 0.4}, r"training.averages.decays of .* are \[0.3\], got 0.4"),
        ({"decay": 0.3, "step": 1}, "step must go, got 1"),
        ({"width": 0.5}, r"a relative width must be in \(0, 0.2887\], got 0.5"),
    ],
)
def test_what_the_run_does_not_hold_is_refused(flow, tmp_path, wanted, message):
    with pytest.raises(ValueError, match=message):
        export_average(flow.folder, tmp_path / "bundle", **wanted)
    assert not (tmp_path / "bundle").exists()


def test_the_attention_of_the_last_blocks_is_logged(flow):
    row = flow.metrics()[-1]
    assert row["attention_entropy_by_block"] == [row["attention_entropy"]]


def test_a_dry_run_counts_the_averages():
    costs = run_training("scenes-tiny", SETTINGS, Path("nowhere"), True, lambda *_: None)["costs"]
    num = costs["parameters"]
    assert costs["training_state_bytes"] == 4 * num * (5 + 3)
    assert costs["checkpoint_bytes"] == 4 * num * (4 + 3)
    assert costs["kept_averages_bytes"] == 4 * num * 2 * 2
