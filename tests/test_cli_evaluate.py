"""`evaluate`: what it keeps and goes on with, and the measures that a CLIP takes."""

import json
import shutil

import pytest

from rectiflow.cli.main import main
from rectiflow.evaluation.layout import write_lines
from rectiflow.evaluation.scenes_prompts import load_prompts
from tests.sampling import tiny

FEW = ["--prompts-per-task", "1", "--steps", "1", "--guidance", "1"]
FRECHET = ["--frechet", "--reference", "30", "--json"]
told = pytest.mark.filterwarnings("default::rectiflow.evaluation.frechet.FewPicturesWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("models") / "run")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rectiflow" / "moments"


def test_the_same_command_goes_on_and_that_of_another_model_is_refused(run, tmp_path, capsys):
    model, out, prompts = tmp_path / "model", tmp_path / "suite", tmp_path / "prompts.jsonl"
    shutil.copytree(run, model)
    write_lines(prompts, load_prompts()[:2])
    command = ["evaluate", "--run", str(model), "--out", str(out), "--prompts", str(prompts)]
    command += ["--steps", "1", "--json"]
    assert main(command) == 0
    scores = json.loads(capsys.readouterr().out)
    (out / "00001" / "samples" / "0000.png").unlink()
    (out / "results.jsonl").unlink()
    assert main(["evaluate", "--images", str(out)]) == 2
    assert "its evaluation has not ended; repeat it first" in capsys.readouterr().err
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == scores
    tiny.add_checkpoint(model, 12, tiny.network(seed=4).state_dict())  # of the same recipe
    assert main(command) == 2
    message = f"rectiflow: {out} holds an evaluation with other network; choose another folder\n"
    assert capsys.readouterr().err == message


@told
def test_a_run_and_the_pictures_it_kept_are_equally_far_from_true_scenes(
    run, tmp_path, cache, capsys
):
    out = tmp_path / "suite"
    command = ["evaluate", "--run", str(run), "--out", str(out), *FEW, "--clip", "scenes-tiny"]
    assert main([*command, *FRECHET]) == 0
    captured = capsys.readouterr()
    assert "needs more than 96 pictures on each side, got 12 and 30 of reference" in captured.err
    scores = json.loads(captured.out)
    found = scores["frechet"]
    assert (found["num_pictures"], found["num_reference"]) == (12, 30)
    assert found["distance"] > 2 * found["ground_truth"] > 0
    assert scores["features"]["width"] == 96
    assert json.loads((out / "summary.json").read_text())["frechet"] == found
    assert len(list(cache.iterdir())) == 1
    assert main(["evaluate", "--images", str(out), *FRECHET]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["frechet"] == pytest.approx(found)
    assert again["clip_score"] == pytest.approx(scores["clip_score"])
    assert len(list(cache.iterdir())) == 1  # the same reference
    assert main(["evaluate", "--images", str(out), "--frechet", "--reference", "30"]) == 0
    assert "12 pictures, 30 true scenes" in capsys.readouterr().out


def test_a_dry_evaluation_names_the_clip(run, capsys):
    options = ["--frechet", "--clip", "scenes-tiny", "--dry-run"]
    assert main(["evaluate", "--run", str(run), *options]) == 0
    facts = json.loads(capsys.readouterr().out)["evaluated"]
    assert facts["clip"] == {"name": "rectiflow's own CLIP", "width": 96}
    assert facts["num_reference"] == 5000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frechet"], "its encoders came without a vision tower; give --clip"),
        (["--reference", "9"], "--reference 9 has no effect without --frechet"),
        (["--frechet", "--reference", "1"], "'--reference'"),
        (["--frechet", "--clip", "no/clip"], "no bundle or run 'no/clip'"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_drawn(run, options, message, capsys):
    assert main(["evaluate", "--run", str(run), *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
