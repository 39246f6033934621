"""Every kind of network is trained, resumed, exported, bundled, drawn from and described."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from rectiflow.jobs import run_training
from rectiflow.sampling.bundle import assemble
from rectiflow.sampling.describe import describe
from rectiflow.sampling.load import load
from rectiflow.sampling.sources import find_source

QUICK = [
    "data.size_px=32",
    "data.num_scenes=8",
    "data.num_validation=2",
    "training.batch_size=2",
    "sampling.num_steps=1",
    "sampling.num_pictures=1",
]
SMALL = {
    "mmdit3": ["model.depth=1"],
    "dit": ["model.depth=1"],
    "crossdit": ["model.depth=1"],
    "uvit": ["model.depth=1", "model.channels=[32]", "model.num_resnets=1"],
    "unet": ["model.channels=[32, 32]"],
    "pixart": ["model.depth=1", "model.num_heads=2"],
}


def silent(*_):
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", SMALL)
def test_a_run_of_every_kind_goes_all_the_way(name, root, tmp_path, caplog):
    settings = [*QUICK, "training.num_steps=2", *SMALL[name]]
    kind = name.rstrip("3")
    done = run_training(f"{name}-tiny", settings, root / name, False, silent)
    assert done["status"] == "finished"
    export = root / name / "export"
    assert json.loads((export / kind / "config.json").read_text())["latent_channels"] == 16
    bundle = assemble(root / name, tmp_path / "bundle", "fp32")
    pictures = [
        np.asarray(load(place).sample("a red circle")[0]).astype(int)
        for place in (root / name, bundle)
    ]
    assert abs(pictures[0] - pictures[1]).max() <= 1
    result = json.loads((root / name / "result.json").read_text())
    facts = describe(find_source(root / name))
    assert facts["network"]["kind"] == kind
    assert facts["parameters"][kind] == result["num_parameters"]
    assert facts["takes_pooled"] == (kind not in ("unet", "pixart"))
    assert ("no use for the pooled text" in caplog.text) != facts["takes_pooled"]
    plan = run_training(f"{name}-tiny", settings, root / f"{name} planned", True, silent)
    assert plan["costs"]["parameters"] == result["num_parameters"]


def test_a_run_that_lost_its_last_steps_takes_them_again_bit_for_bit(root):
    name = "uvit"  # it has every sort of layer
    checkpoints = ["training.checkpoint_every_steps=1", "training.retain.newest=3"]
    settings = [*QUICK, "training.num_steps=3", *checkpoints, *SMALL[name]]
    whole, cut = root / f"{name} whole", root / f"{name} cut"
    run_training(f"{name}-tiny", settings, whole, False, silent)
    shutil.copytree(whole, cut)
    for lost in (*cut.glob("checkpoints/step-0000000[23]"), cut / "export"):
        shutil.rmtree(lost)
    (cut / "result.json").unlink()
    run_training(f"{name}-tiny", settings, cut, False, silent)
    weights = [load_file(run / "export" / name / "model.safetensors") for run in (whole, cut)]
    for key, tensor in weights[0].items():
        assert tensor.equal(weights[1][key]), key


def test_weights_start_a_network_of_their_own_kind_only(root):
    settings = [*QUICK, "training.num_steps=1"]
    run_training("dit-tiny", [*settings, *SMALL["dit"]], root / "first", False, silent)
    start = f"training.init_from={root / 'first'}"
    run_training("dit-tiny", [*settings, *SMALL["dit"], start], root / "next", False, silent)
    with pytest.raises(ValueError, match=r"inner\..* is missing from"):
        run_training(
            "pixart-tiny", [*settings, *SMALL["pixart"], start], root / "no", False, silent
        )
