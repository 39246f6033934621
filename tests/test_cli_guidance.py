"""Solvers and guidance on the command line of `sample`."""

import json

import numpy as np
import pytest
from PIL import Image

from rectiflow.cli.main import main
from rectiflow.sampling.guides import find_guide, load_guide
from rectiflow.sampling.load import load
from tests.sampling import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("guided") / "run")


def drawn(run, out, *arguments):
    command = ["sample", "a star", "--run", str(run), "--out", str(out), "--precision", "fp32"]
    assert main([*command, *arguments]) == 0
    with Image.open(out / "0000_a-star.png") as picture:
        return np.asarray(picture), picture.text


def test_every_option_reaches_the_picture_and_names_may_have_dashes(run, tmp_path):
    told = {
        "--solver": "dpmpp-2m", "--steps": "6", "--guidance": "3", "--guidance-method": "apg",
        "--guidance-start": "0.2", "--guidance-end": "0.9", "--apg-eta": "0.1",
        "--apg-norm": "5", "--apg-momentum": "-0.3",
    }  # fmt: skip
    picture, text = drawn(run, tmp_path, *(part for pair in told.items() for part in pair))
    expected = load(run, precision="fp32").sample(
        "a star", solver="dpmpp_2m", num_steps=6, guidance_scale=3.0, guidance_method="apg",
        guidance_start=0.2, guidance_end=0.9, apg_eta=0.1, apg_norm=5.0, apg_momentum=-0.3,
    )[0]  # fmt: skip
    assert np.array_equal(picture, np.asarray(expected))
    assert (text["solver"], text["guidance_method"]) == ("dpmpp_2m", "apg")
    assert (text["apg_eta"], text["apg_norm"], text["apg_momentum"]) == ("0.1", "5.0", "-0.3")
    _, text = drawn(run, tmp_path, "--guidance-method", "cfg-zero", "--zero-init-steps", "0")
    assert (text["guidance_method"], text["zero_init_steps"]) == ("cfg_zero", "0")
    _, text = drawn(run, tmp_path, "--solver", "dopri5", "--tolerance", "0.01", "--guidance", "1")
    assert (text["solver"], text["tolerance"]) == ("dopri5", "0.01")


def test_a_weaker_checkpoint_leads_from_the_command_line(run, tmp_path, capsys):
    weaker = run / "checkpoints" / "step-00000002"
    picture, text = drawn(run, tmp_path, "--guide", str(weaker), "--guidance", "2")
    model = load(run, precision="fp32")
    plain = np.asarray(model.sample("a star", guidance_scale=2.0)[0])
    model.guide = load_guide(find_guide(str(weaker)), model)
    assert np.array_equal(picture, np.asarray(model.sample("a star", guidance_scale=2.0)[0]))
    assert not np.array_equal(picture, plain)
    assert text["guide_sha256"] == model.guide.sha256
    capsys.readouterr()
    command = ["sample", "a star", "--run", str(run), "--guide", str(weaker), "--dry-run"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["guide"] == str(weaker)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guidance-method", "pag"], "guidance_method must be one of"),
        (["--guidance-start", "2"], "0 <= start < end <= 1, got 2.0 and 1.0"),
        (["--apg-eta", "0.1"], "apg_eta would have no effect without guidance_method apg"),
        (["--zero-init-steps", "1"], "would have no effect without guidance_method cfg_zero"),
        (["--guidance", "1", "--guidance-end", "0.5"], "no effect at guidance_scale 1"),
        (["--tolerance", "0.1"], "tolerance would have no effect without an adaptive solver"),
        (["--solver", "dopri5", "--steps", "5"], "num_steps would have no effect with solver d"),
        (["--guide", "no/such"], "no bundle or run 'no/such'"),
        (["--guide", "scenes-tiny"], "a guide must have the same encoders"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_and_exit_2(run, arguments, message, capsys):
    assert main(["sample", "a star", "--run", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
