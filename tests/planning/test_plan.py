"""The verb `plan`, from names to numbers, storage and curves."""

import json

import pytest
from PIL import Image

from rectiflow.cli.main import main
from rectiflow.cli.plan import GPU_NAMES
from rectiflow.data.manifest import ArraySpec
from rectiflow.planning.gpus import GPUS
from rectiflow.planning.storage import TABLE_7, paper_bytes, sample_bytes


def answer(capsys, *command):
    assert main(["plan", *command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_table_7_is_a_megabyte_a_sample_and_its_latent_grows_with_the_picture():
    assert list(TABLE_7.values()) == [65_536, 121_344, 202_240, 630_784]
    assert TABLE_7["latent"] == 32 * 32 * 16 * 4
    assert TABLE_7["clip_l"] == 77 * 768 * 2 + 768 * 4
    assert TABLE_7["clip_g"] == 77 * 1280 * 2 + 1280 * 4
    assert TABLE_7["t5"] == 77 * 4096 * 2
    assert paper_bytes(256) == 1_019_904
    assert paper_bytes(1024) - paper_bytes(256) == 15 * 65_536


def test_a_sample_has_one_latent_and_the_text_of_each_caption():
    arrays = {
        "latent": ArraySpec(shape=(2, 3, 3), dtype="float32"),
        "log_variance": ArraySpec(shape=(2, 3, 3), dtype="float16"),
        "t5": ArraySpec(shape=(5, 4), dtype="float16"),
    }
    expected = {"latent": 72, "log_variance": 36, "t5": 80, "total": 188}
    assert sample_bytes(arrays, 2) == expected


def test_the_papers_run_is_planned_whole(capsys):
    facts = answer(capsys, "mmdit-d38", "--gpu", "h200", "--gpus", "256")
    network, run, best = facts["network"], facts["run"], facts["advised"]
    assert network["parameters"] == 8_056_617_792
    assert network["layer_macs"] == 1_101_006_012_416
    assert (run["images"], run["num_steps"]) == (500_000 * 4096, 500_000)
    assert run["training_flops"] == facts["paper"]["counted_flops"]
    assert [way["fits"] for way in facts["ways"]] == [False, False, True, True]
    seconds = best["step_seconds"]
    whole = seconds["computing"] + seconds["exposed"] + seconds["optimizer"]
    assert seconds["total"] == pytest.approx(whole)
    assert best["images_per_second"] == pytest.approx(4096 / whole)
    assert facts["days"] == pytest.approx(500_000 * whole / 86_400)
    assert facts["kwh"] == pytest.approx(facts["days"] * 24 * 256 * 10.2 / 8)
    # Ours keeps the pooled vectors of the CLIPs in float16, the paper in float32; and how far each
    # latent may be drawn from its mean, which the paper does not.
    stored = facts["storage"]["sample_bytes"]
    assert stored["log_variance"] == 32 * 32 * 16 * 2
    shared = stored["total"] - stored["log_variance"]
    assert facts["storage"]["paper_sample_bytes"] - shared == 2 * (768 + 1280)


def test_the_help_names_every_gpu():
    assert tuple(GPUS) == GPU_NAMES


def test_every_option_changes_the_plan(capsys):
    words = ["mmdit-d15", "--gpus", "16"]
    plain = answer(capsys, *words)
    assert plain["advised"]["strategy"] == "ddp"
    assert answer(capsys, *words, "--parallel", "fsdp")["advised"]["strategy"] == "fsdp"
    assert answer(capsys, *words, "--images", "1e9")["run"]["images"] == 10**9
    assert answer(capsys, *words, "--batch", "512")["run"]["batch"] == 512
    assert answer(capsys, *words, "--gpu", "a100")["days"] > 2 * plain["days"]
    assert answer(capsys, *words, "--eager")["days"] > 1.2 * plain["days"]
    larger = answer(capsys, *words, "--size", "512")["network"]["training_flops"]
    assert larger > 2.5 * plain["network"]["training_flops"]
    slow = answer(capsys, *words, "--efficiency", "0.2")
    assert slow["advised"]["share_of_peak"] == pytest.approx(0.2, rel=0.1)


def test_a_recipe_is_planned_with_its_own_batch_optimizer_and_minutes(capsys):
    facts = answer(capsys, "scenes-tiny", "--gpu", "cpu", "--set", "training.batch_size=16")
    best = facts["advised"]
    assert facts["run"]["batch"] == 16
    assert facts["cluster"]["optimizer"] == "muon"
    assert facts["days"] == pytest.approx(10 / 1440, rel=1e-3)
    assert facts["run"]["images"] == pytest.approx(600 * best["images_per_second"], rel=1e-3)
    assert facts["days_as_published"] == []
    assert facts["storage"]["num_captions"] == 2
    changed = ["training.num_steps=70", "training.averages.decays=[0.9]", "training.precision=fp32"]
    told = answer(capsys, "scenes-tiny", *(word for each in changed for word in ("--set", each)))
    assert told["run"]["images"] == 70 * 32
    memory = told["advised"]["memory_bytes"]
    assert memory["ema"] == 2 * memory["gradients"]
    assert "the recipe trains in fp32; what is told is of bf16" in told["notes"]


def test_a_page_for_people_names_the_way_the_paper_and_the_source(capsys):
    assert main(["plan", "mmdit-d38", "--gpus", "256"]) == 0
    told = capsys.readouterr()
    assert "5e+22 FLOPs in print" in told.out
    assert "advised: fsdp" in told.out
    assert "too much" in told.out
    assert "DGX H200" in told.out
    assert main(["plan", "dit-tiny", "--gpu", "h100"]) == 0
    notes = capsys.readouterr().err
    assert "activations and the time between products are estimates" in notes
    assert "launches of kernels" in notes


def test_kinds_without_equal_blocks_are_planned_too(capsys):
    facts = answer(capsys, "unet-tiny", "--gpu", "a100", "--batch", "64")
    assert facts["network"]["checkpointed_bytes"] is None
    assert facts["network"]["layer_macs"] == 229_183_488
    assert facts["advised"]["fits"]


def test_curves_are_pictures_over_depth_size_and_gpus(capsys, tmp_path):
    words = ["mmdit-d24", "--gpus", "8", "--curves", str(tmp_path)]
    files = answer(capsys, *words)["curves"]
    assert [name.rsplit("/", 1)[1] for name in files] == [
        "over_size.png",
        "over_depth.png",
        "over_gpus.png",
    ]
    for name in files:
        with Image.open(name) as picture:
            colors = picture.convert("RGB").getcolors(maxcolors=2**20)
            assert picture.width > 1000
            assert len(colors) > 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mmdit-d37"], "did you mean mmdit-d3"),
        (["scenes-tini"], "did you mean scenes-tiny"),
        (["mmdit-d24", "--gpu", "h20"], "unknown gpu 'h20'"),
        (["mmdit-d24", "--gpus", "3"], "batch of 4096 on 3 GPUs"),
        (["mmdit-d24", "--parallel", "fspd"], "did you mean fsdp"),
        (["mmdit-d24", "--images", "0"], "images must be >= 1"),
        (["mmdit-d24", "--size", "100"], "multiple of 8, got 100"),
        (["mmdit-d24", "--set", "a.b=1"], "not a recipe"),
        (["encoders-tiny"], "a plan is made for a flow"),
        (["mmdit-d38", "--gpu", "rtx4090"], "nothing fits"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(words, message, capsys):
    assert main(["plan", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
