"""The whole chain on a tiny scale: autoencoder, encoders, flow, bundle, pictures."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rectiflow.data.draws import Draws
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.errors import DataError
from rectiflow.flow.formulations import formulation
from rectiflow.jobs import run_training
from rectiflow.jobs.encoders import corpus
from rectiflow.jobs.grids import SCENES_PROMPTS, PictureGrid
from rectiflow.jobs.records import picture_sources
from rectiflow.runs import Run
from rectiflow.sampling.bundle import assemble
from rectiflow.sampling.images import contact_sheet, sheet_pictures, to_bytes
from rectiflow.sampling.load import load
from rectiflow.sealing import verify
from rectiflow.training.ema import Ema, exponential
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.optim import Optimizers
from rectiflow.training.recipe import recipe_from_dict
from rectiflow.training.settings.data import ScenesData
from rectiflow.training.state import TrainState

QUICK = ["training.num_steps=2", "data.size_px=32", "data.num_validation=4", "seed=3"]
AUTOENCODER = [*QUICK, "data.num_scenes=8", "training.batch_size=4", "model.widths=[8, 8, 8, 8]"]
ENCODERS = [*QUICK, "data.num_scenes=64", "training.batch_size=8", "model.vision_width=32"]
FLOW = [
    *QUICK,
    "training.batch_size=4",
    "model.depth=1",
    "sampling.num_steps=2",
    "sampling.num_pictures=4",
]


def silent(*_):
    pass


def flow_settings(runs, *more):
    encoders = f"encoders.autoencoder={runs / 'ae'}", f"encoders.text={runs / 'text'}"
    return [*FLOW, *encoders, *more]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with finished runs of the three kinds."""
    root = tmp_path_factory.mktemp("runs")
    run_training("autoencoder-tiny", AUTOENCODER, root / "ae", False, silent)
    run_training("encoders-tiny", ENCODERS, root / "text", False, silent)
    settings = flow_settings(root, "data.num_scenes=16")
    run_training("scenes-tiny", settings, root / "flow", False, silent)
    return root


def test_latents_of_the_exported_autoencoder_have_mean_zero_and_std_one(runs):
    from rectiflow.data.picture_source import as_images
    from rectiflow.data.scenes import make_scene, render

    model = Autoencoder.load(runs / "ae" / "export" / "vae")
    with torch.no_grad():
        latent = model.encode(as_images([render(make_scene(0, i), 32) for i in range(8)]))
    assert latent.mean().item() == pytest.approx(0, abs=1e-3)
    assert latent.std().item() == pytest.approx(1, abs=1e-3)


def test_a_run_its_export_and_its_bundle_draw_the_same_picture(runs, tmp_path):
    out = assemble(runs / "flow", tmp_path / "bundle", "fp32")
    pictures = [
        np.asarray(load(place).sample("a red circle", seed=5)[0]).astype(int)
        for place in (runs / "flow", runs / "flow" / "export", out)
    ]
    assert pictures[0].std() > 0
    assert abs(pictures[0] - pictures[1]).max() <= 1
    assert abs(pictures[0] - pictures[2]).max() <= 1
    assert {"config.json", "metrics.jsonl", "result.json"} <= set(verify(out)["files"])


def test_the_grid_shows_the_averaged_model_as_sample_draws_it(runs, tmp_path):
    recipe = recipe_from_dict(Run(runs / "flow").config())
    present, averaged = load(runs / "flow"), load(runs / "flow")
    objective = FlowObjective(present.network, formulation("rf"), 0.0)
    state = TrainState(
        run=Run(tmp_path),
        model=present.network,
        ema=Ema(present.network, exponential(0.0)),
        optimizers=Optimizers(objective, recipe.training),
        step=7,
    )
    state.ema.tensors["final.project.bias"].fill_(1.0)
    prompts = list(SCENES_PROMPTS[:2])
    grid = PictureGrid(present.network, present.autoencoder, present.text, recipe, prompts)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the loop calls it
        grid(state)
    averaged.network.final.project.bias.data.fill_(1.0)
    keys = [(recipe.sampling.seed, i) for i in range(2)]
    drawn = averaged.draw(prompts, keys)
    pictures = [Image.fromarray(p).resize((128, 128), Image.Resampling.NEAREST) for p in drawn]
    expected = np.asarray(contact_sheet(pictures, captions=prompts)).astype(int)
    sheet = np.asarray(Image.open(tmp_path / "samples" / "step-00000007.png"))
    assert abs(sheet - expected).max() <= 1
    assert abs(np.stack(drawn).astype(int) - np.stack(present.draw(prompts, keys))).max() > 10


def test_exported_text_encoders_have_states_of_one_scale(runs):
    text = TextEncoders.load(runs / "text" / "export")
    states = text.encode(sorted(set(corpus(ScenesData(num_scenes=64, size_px=32)))))
    for part in ("clip_l", "clip_g", "t5", "pooled_l", "pooled_g"):
        assert getattr(states, part).square().mean().sqrt().item() == pytest.approx(1, abs=0.05)


def test_an_autoencoder_shows_held_out_pictures_and_their_reconstructions(runs):
    sheet = Image.open(runs / "ae" / "samples" / "step-00000002.png")
    shown = [np.asarray(picture).astype(int) for picture in sheet_pictures(sheet, 8, columns=8)]
    data = ScenesData(num_scenes=8, num_validation=4, size_px=32)
    held_out = picture_sources(data, 3)[1].batch(np.arange(4), Draws(0, np.arange(4)))["image"]
    model = Autoencoder.load(runs / "ae" / "export" / "vae")
    with torch.no_grad():
        decoded = model.decode(model.encode(held_out))
    for i, (picture, coded) in enumerate(zip(to_bytes(held_out), to_bytes(decoded), strict=True)):
        assert (shown[2 * i][::4, ::4] == picture).all()
        assert abs(shown[2 * i + 1][::4, ::4] - coded).max() <= 1


def test_a_finished_run_is_not_trained_or_exported_again(runs):
    before = {p: p.stat().st_mtime_ns for p in (runs / "flow").rglob("*.safetensors")}
    settings = flow_settings(runs, "data.num_scenes=16")
    summary = run_training("scenes-tiny", settings, runs / "flow", False, silent)
    assert summary["status"] == "finished"
    assert before == {p: p.stat().st_mtime_ns for p in (runs / "flow").rglob("*.safetensors")}


def test_runs_side_by_side_share_the_encoded_store(runs):
    settings = flow_settings(runs, "data.num_scenes=16", "training.learning_rate=1e-4")
    run_training("scenes-tiny", settings, runs / "other", False, silent)
    assert len(list((runs / "stores").iterdir())) == 1


def test_training_starts_from_the_weights_of_another_run(runs):
    settings = flow_settings(
        runs,
        "data.num_scenes=16",
        f"training.init_from={runs / 'flow'}",
        "training.learning_rate=1e-30",
        "training.muon_learning_rate=1e-30",
    )
    run_training("scenes-tiny", settings, runs / "continued", False, silent)
    first, second = (
        np.asarray(load(runs / name).sample("a red circle")[0]).astype(int)
        for name in ("flow", "continued")
    )
    assert abs(first - second).max() <= 1


def test_a_bundle_starts_training_by_its_name_and_a_flipped_byte_stops_it(
    runs, tmp_path, monkeypatch
):
    bundle = tmp_path / "bundles" / "mine"
    assemble(runs / "flow", bundle, "fp32")
    monkeypatch.setattr("rectiflow.sampling.bundle.packaged_bundles", lambda: bundle.parent)
    monkeypatch.setattr("rectiflow.jobs.running.packaged_bundles", lambda: bundle.parent)
    settings = flow_settings(
        runs,
        "data.num_scenes=16",
        "training.init_from=mine",
        "training.learning_rate=1e-30",
        "training.muon_learning_rate=1e-30",
    )
    run_training("scenes-tiny", settings, runs / "named", False, silent)
    first, second = (
        load_file(runs / name / "export" / "mmdit" / "model.safetensors")
        for name in ("flow", "named")
    )
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor)
    weights = bundle / "mmdit" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        run_training("scenes-tiny", settings, runs / "again", False, silent)


def test_own_pictures_are_encoded_trained_on_and_the_bad_ones_left_out(runs, tmp_path, caplog):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for i in range(6):
        noise = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"noise number {i}")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (pictures / "broken.txt").write_text("not a picture")
    settings = flow_settings(runs, f"data.path={pictures}")
    run_training("folder", settings, runs / "own", False, silent)
    assert "train one on them" in caplog.text  # an autoencoder of two steps is far below 24 dB
    assert "1 quarantined" in caplog.text
    result = json.loads((runs / "own" / "result.json").read_text())
    assert result["reconstruction_psnr_db"] < 24
    for picture in pictures.iterdir():
        os.utime(picture, (0, 0))  # a copy of the folder: other times, the same contents
    run_training("folder", settings, runs / "own", False, silent)
    (pictures / "0.txt").write_text("another caption")
    with pytest.raises(ValueError, match="no longer those it began with"):
        run_training("folder", settings, runs / "own", False, silent)


def test_the_autoencoder_learns_from_own_pictures(runs, tmp_path, caplog):
    Image.new("RGB", (40, 40)).save(tmp_path / "nameless.png")
    for i in range(4):
        Image.new("RGB", (40, 40), (60 * i, 10, 200)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"colour {i}")
    settings = [s for s in AUTOENCODER if not s.startswith("data.num_scenes")]
    settings.append(f"data.path={tmp_path}")
    run_training("autoencoder-tiny", settings, runs / "own-ae", False, silent)
    assert (runs / "own-ae" / "export" / "vae" / "config.json").is_file()
    assert "left out: 1 x no caption" in caplog.text
    (tmp_path / "0.txt").write_text("another caption")
    with pytest.raises(ValueError, match="no longer those it began with"):
        run_training("autoencoder-tiny", settings, runs / "own-ae", False, silent)


@pytest.mark.parametrize("recipe", ["autoencoder-tiny", "encoders-tiny"])
def test_a_dry_run_tells_parameters_and_writes_nothing(recipe, tmp_path):
    told = run_training(recipe, ["data.num_scenes=200"], tmp_path / "run", True, silent)
    assert told["recipe"]["name"] == recipe
    assert told["costs"]["parameters"] > 100_000
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_flow_counts_its_network(runs):
    told = run_training("scenes-tiny", flow_settings(runs), runs / "planned", True, silent)
    run = json.loads((runs / "flow" / "result.json").read_text())
    assert told["costs"]["parameters"] == run["num_parameters"]
    # Three times the forward pass, but for the first layers: much of a network this small.
    assert 2.5 < told["costs"]["step_flops"] / (4 * told["costs"]["forward_flops"]) < 3
    assert not (runs / "planned").exists()


@pytest.mark.parametrize("is_dry", [False, True])
def test_an_unknown_formulation_is_refused_before_anything_is_encoded(is_dry, runs, tmp_path):
    settings = flow_settings(runs, "objective.formulation=rf/lognrom(0,1)")
    with pytest.raises(ValueError, match=r"unknown formulation .rf/lognrom"):
        run_training("scenes-tiny", settings, tmp_path / "run", is_dry, silent)
    assert not (tmp_path / "stores").exists()


def test_a_bundle_cannot_start_encoders(tmp_path):
    settings = [*ENCODERS, "training.init_from=scenes-tiny"]
    with pytest.raises(ValueError, match="a bundle cannot start encoders"):
        run_training("encoders-tiny", settings, tmp_path / "run", False, silent)


def test_microbatches_of_a_contrast_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"num_microbatches must be 1 for encoders"):
        run_training(
            "encoders-tiny", [*ENCODERS, "training.num_microbatches=2"], tmp_path, False, silent
        )
