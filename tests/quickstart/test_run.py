"""The whole quickstart on encoders of a few thousand random weights."""

import json
import os
import signal

import pytest

from rectiflow.cli.main import main
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel, EncodersModel
from rectiflow.encoders.text import TextEncoders
from rectiflow.jobs import run_training
from rectiflow.jobs.encoders import corpus
from rectiflow.quickstart import run as run_module
from rectiflow.quickstart import run_quickstart
from rectiflow.training.settings.data import ScenesData

SETTINGS = (
    "training.num_steps=3",
    "training.batch_size=4",
    "training.sample_every_steps=2",
    "data.size_px=32",
    "data.num_scenes=16",
    "data.num_validation=4",
    "model.depth=1",
    "model.patch_size=2",
    "sampling.num_steps=1",
    "sampling.num_pictures=4",
)


def silent(*_):
    pass


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Encoders and a reference model."""
    root = tmp_path_factory.mktemp("quickstart")
    autoencoder = AutoencoderModel(latent_channels=4, widths=(8, 8, 8, 8), norm_groups=4)
    Autoencoder.new(autoencoder, seed=1).save(root / "encoders" / "vae")
    sizes = EncodersModel(clip_l_width=32, clip_g_width=32, t5_width=64, clip_layers=2, t5_layers=1)
    captions = corpus(ScenesData(num_scenes=2000))
    TextEncoders.new(sizes, captions, seed=2).save(root / "encoders")
    run_training("scenes-tiny", settings(root), root / "reference", False, silent)
    return root


def settings(root, *more):
    return [*SETTINGS, f"encoders.source={root / 'encoders'}", *more]


def quickstart(root, out, *, minutes=None, dry_run=False, progress=silent, settings):
    return run_quickstart(
        minutes,
        out,
        dry_run,
        progress,
        reference=str(root / "reference"),
        per_task=1,
        settings=settings,
    )


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def done(root, told):
    out = root / "runs" / "quickstart"
    result = quickstart(
        root, out, settings=settings(root), progress=lambda *report: told.append(report)
    )
    return out, result


def weights(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*.safetensors")}


def test_the_report_shows_every_picture_and_the_table_every_task(done):
    out, result = done
    assert result["status"] == "finished"
    assert result["report"] == str(out / "report.html")
    html = (out / "report.html").read_text(encoding="utf-8")
    num_moments = 2  # after steps 2 and 3
    assert html.count("<img ") == 2 * 16 + num_moments * 4 + 2 * 7
    lines = result["table"].splitlines()
    assert len(lines) == 1 + 7 + 1
    overall = [result["scores"][name]["overall"] for name in ("this run", "reference")]
    assert lines[-1].split() == ["overall", *(f"{value:.2f}" for value in overall)]


def test_results_are_kept_for_both_models(done):
    out, result = done
    for name, place in (("this run", "fresh"), ("reference", "reference")):
        folder = out / "evaluation" / place
        assert json.loads((folder / "summary.json").read_text()) == result["scores"][name]
        assert len((folder / "results.jsonl").read_text().splitlines()) == 7


def test_progress_and_times_name_the_stages_in_their_order(done, told):
    _, result = done
    stages = list(dict.fromkeys(stage for stage, *_ in told))
    assert stages == ["encoding", "training", "drawing", "scoring this run", "scoring reference"]
    assert list(result["seconds"]) == ["loading", *stages]


def test_the_same_command_draws_again_without_training(done, root):
    out, result = done
    before = weights(out)
    (out / "report.html").unlink()
    again = quickstart(root, out, settings=settings(root))
    assert weights(out) == before
    assert (out / "report.html").is_file()
    assert again["scores"] == result["scores"]
    assert again["seconds"]["training"] == result["seconds"]["training"]


def test_another_length_is_refused_with_what_to_do(done, root):
    out, _ = done
    with pytest.raises(ValueError, match=r"holds a run of None minutes, not 7.0: give --minutes"):
        quickstart(root, out, minutes=7.0, settings=[f"encoders.source={root / 'encoders'}"])


def test_a_dry_run_tells_stages_and_cost_and_writes_nothing(root, tmp_path):
    out = tmp_path / "runs" / "new"
    plan = quickstart(
        root, out, minutes=5, dry_run=True, settings=[f"encoders.source={root / 'encoders'}"]
    )
    assert plan["about_minutes"]["training"] == 5
    assert plan["about_minutes"]["total"] >= 5
    assert plan["would"][:2] == ["encode 12,064 scenes", "train for 5 minutes"]
    assert plan["recipe"]["training"]["minutes"] == 5
    assert plan["costs"]["parameters"] > 0
    assert not out.exists()


def test_a_dry_run_of_a_finished_quickstart_says_that_it_only_draws(done, root):
    out, _ = done
    plan = quickstart(root, out, dry_run=True, settings=settings(root))
    assert plan["would"][0] == f"keep the finished run {out}"
    assert "training" not in plan["about_minutes"]


def test_ctrl_c_stops_with_a_checkpoint_and_the_same_call_goes_on(root, done, tmp_path):
    def interrupt(stage, step, *_):
        if stage == "training" and step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    out = root / "runs" / "interrupted"
    stopped = quickstart(root, out, settings=settings(root), progress=interrupt)
    assert stopped["status"] == "interrupted"
    assert "report" not in stopped
    assert not (out / "report.html").exists()
    finished = quickstart(root, out, settings=settings(root))
    assert finished["status"] == "finished"
    assert finished["scores"]["this run"] == done[1]["scores"]["this run"]


def test_a_run_that_the_clock_stopped_is_reported_and_says_so(root):
    out = root / "runs" / "late"
    changes = [s for s in settings(root) if not s.startswith("training.num_steps")]
    late = quickstart(root, out, minutes=1e-5, settings=changes)
    assert late["status"] == "out_of_time"
    html = (out / "report.html").read_text(encoding="utf-8")
    assert f"{late['step']} steps" in html
    assert "The clock stopped it before its last step" in html


def test_the_verb_prints_the_table_and_the_path(monkeypatch, tmp_path, capsys):
    calls = []

    def fake(*arguments):
        calls.append(arguments[:3])
        report = str(tmp_path / "report.html")
        return {"status": "finished", "message": "", "table": "the table", "report": report}

    monkeypatch.setattr(run_module, "run_quickstart", fake)
    monkeypatch.setattr("rectiflow.quickstart.run_quickstart", fake)
    assert main(["quickstart", "--minutes", "2", "--out", str(tmp_path)]) == 0
    assert calls == [(2.0, tmp_path, False)]
    captured = capsys.readouterr()
    assert captured.out == f"the table\nreport: {tmp_path / 'report.html'}\n"
    assert str(tmp_path / "samples") in captured.err


def test_the_verb_exits_as_the_training_ended(monkeypatch, tmp_path, capsys):
    stopped = {"status": "interrupted", "message": "stopped by SIGTERM: checkpoint written"}
    monkeypatch.setattr("rectiflow.quickstart.run_quickstart", lambda *_: stopped)
    assert main(["quickstart", "--out", str(tmp_path)]) == 143
    assert "checkpoint written" in capsys.readouterr().out
