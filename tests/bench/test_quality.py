import json
from pathlib import Path

import numpy as np
import pytest

from rectiflow.bench import quality
from rectiflow.bench.settings import BenchSettings
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.processes import Finished

SUMMARY = {
    "overall": 0.9,
    "strict": 0.8,
    "heldout": None,
    "tasks": {"single_object": 0.94, "text": 0.5},
    "controls": {"round_trip": {"overall": 0.98}},
}
QUICK = BenchSettings(is_quick=True)


@pytest.fixture
def evaluated(monkeypatch):
    calls = []

    def run_rectiflow(*arguments):
        calls.append(arguments)
        return Finished(361.0, 512.0, json.dumps(SUMMARY))

    monkeypatch.setattr(quality, "run_rectiflow", run_rectiflow)
    return calls


def test_the_packaged_bundles_scores_stand_against_their_bars(evaluated):
    figures = quality.measure_evaluate(BenchSettings())
    assert evaluated == [("evaluate", "--json")]
    assert figures["seconds"].is_met is False
    assert figures["overall"].is_met
    assert figures["single_object"].is_met is False
    assert figures["text"].is_met
    assert figures["control round_trip"].value == 0.98
    assert figures["peak memory"].value == 512
    assert "heldout" not in figures  # nothing was asked, so there is no score


def test_the_scores_of_a_run_have_no_bars(evaluated):
    figures = quality.measure_evaluate(BenchSettings(run=Path("runs/first")))
    assert evaluated == [("evaluate", "--run", str(Path("runs/first")), "--json")]
    assert figures["overall"].is_met is None
    assert figures["seconds"].is_met is False


def test_a_bar_on_every_task_is_held_against_the_worst():
    by_task = {"counting": 0.99, "colors": 1.0, "position": 0.96}
    low = quality.lowest_figure(by_task, 0.97)
    assert (low.value, low.is_met) == (0.96, False)
    assert low.note == "counting 0.9900, colors 1.0000, position 0.9600"
    high = quality.highest_figure(by_task, 1.0)
    assert (high.value, high.is_met) == (1.0, True)


def test_every_autoencoder_named_gets_its_row_of_table_3(tmp_path, monkeypatch):
    few = load_prompts()[::300]
    monkeypatch.setattr(quality, "_prompts", lambda settings: few)
    names = []
    for channels in (4, 16):
        model = AutoencoderModel(latent_channels=channels, widths=(8, 8, 8, 8), norm_groups=4)
        names.append(str(tmp_path / f"vae-{channels}"))
        Autoencoder.new(model).save(names[-1])
    settings = BenchSettings(is_quick=True, autoencoders=tuple(names))
    figures = quality.measure_autoencoder(settings)
    wanted = [f"{name} {what}" for name in names for what in ("PSNR", "SSIM", "agreement")]
    assert list(figures) == wanted
    assert [figures[f"{name} PSNR"].note for name in names] == ["4 channels", "16 channels"]
    for name in names:  # untrained: a blur of nothing
        assert figures[f"{name} PSNR"].value < 20
        assert figures[f"{name} agreement"].is_met is False


def test_the_limits_of_the_checker_are_each_held_against_their_own_bar():
    figures = quality.measure_ceilings(QUICK)
    bars = {name: figure.bar for name, figure in figures.items()}
    assert bars == {
        "ground truth 64 px": ">= 0.995",
        "blurred 64 px": ">= 0.98",
        "blurred words 64 px": ">= 0.95",
        "ground truth 128 px": ">= 0.995",
        "blurred 128 px": ">= 0.98",
        "blurred words 128 px": ">= 0.95",
        "other prompts": "<= 0.01",
        "swapped relations": "<= 0.005",
        "swapped colors": "<= 0.005",
    }
    assert np.isfinite([figure.value for figure in figures.values()]).all()
    assert figures["ground truth 64 px"].is_met
