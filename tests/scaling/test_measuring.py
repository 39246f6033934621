import itertools
import json

import pytest
import torch

from rectiflow import checkpoints, config
from rectiflow.config import to_dict
from rectiflow.evaluation.features import own_clip
from rectiflow.evaluation.frechet import FewPicturesWarning
from rectiflow.evaluation.measures import measure_pictures
from rectiflow.evaluation.prompt_check import picture_seed
from rectiflow.evaluation.reference import TrueScenes, reference_of
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.nn.backbones import new_network
from rectiflow.runs import Run, write_json
from rectiflow.sampling.load import load_encoders, network_config, pipeline_with
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.sources import find_source
from rectiflow.scaling import measuring
from rectiflow.scaling.measures import Setting, read_measures
from rectiflow.scaling.measuring import measure_run
from rectiflow.training import checkpoint
from rectiflow.training.checkpoint import Checkpoint
from rectiflow.training.ema import named_tensors
from rectiflow.training.recipe import load_recipe

NUM, NUM_REFERENCE = 6, 30
EMA, GUIDED, RAW = Setting("ema", 2, 1.0), Setting("ema", 3, 5.0), Setting("raw", 2, 1.0)
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{FewPicturesWarning.__module__}.FewPicturesWarning"
)


@pytest.fixture(scope="module")
def weights():
    """Averaged and raw weights of a network that draws something."""
    recipe = to_dict(load_recipe("scenes-study", ["model.depth=1"]))
    shape = network_config(recipe["model"], 64, *load_encoders(recipe["encoders"]))
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name in ("ema", "model"):
        network = new_network(shape)
        network.reset_parameters(generator)
        tensors = named_tensors(network).items()
        made[name] = {
            k: t.detach() + 0.05 * torch.randn(t.shape, generator=generator) for k, t in tensors
        }
    return made


@pytest.fixture
def run(tmp_path, weights, monkeypatch):
    """A finished run whose best step was the 20th of 40."""
    monkeypatch.setattr(measuring, "SETTINGS", (EMA, GUIDED, RAW))
    monkeypatch.setattr(measuring, "SCENES_SETTING", GUIDED)
    monkeypatch.setattr(measuring, "NUM_REFERENCE", NUM_REFERENCE)
    run = Run(tmp_path / "runs" / "one").create()
    settings = ["model.depth=1", "training.num_steps=40", "seed=3", "objective.formulation=rf"]
    run.config_path.write_text(config.to_json(load_recipe("scenes-study", settings)))
    write_losses(run, (20, 0.5), (40, 0.75))
    metrics = {"val_loss_ema": 0.5, "velocity_error_ema": 0.625}
    checkpoint.save_best(run, Checkpoint(20, weights, {"metrics": metrics}))
    write_json(run.result_path, {"status": "finished"})
    return run


def write_losses(run, *losses):
    rows = [{"step": step, "val_loss_ema": loss} for step, loss in losses]
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def by_hand(run, tensors, setting):
    """The same scores by the pipeline that `rectiflow sample` draws with."""
    every = load_prompts()
    prompts = [every[k * len(every) // NUM] for k in range(NUM)]
    pipeline = pipeline_with(run, tensors, run.folder, torch.device("cpu"), "auto")
    options = SamplingOptions(
        num_steps=setting.num_steps, guidance_scale=setting.guidance_scale, batch_size=4
    )
    keys = [(0, picture_seed(prompt, 0)) for prompt in prompts]
    texts = [prompt["prompt"] for prompt in prompts]
    pictures = pipeline.draw(texts, keys, options)
    clip = own_clip(find_source(run.folder))
    reference = reference_of(clip, TrueScenes(every, NUM_REFERENCE, 64))
    features = clip.image_features(pictures)
    return measure_pictures(features, clip.text_features(texts), reference.moments)


def test_each_setting_scores_pictures_of_its_own_weights_steps_and_guidance(run, weights):
    measures = measure_run(run.folder, NUM, "cpu")
    assert read_measures(run.folder) == measures
    assert [each.setting for each in measures.settings] == [EMA, GUIDED, RAW]
    for each in measures.settings:
        tensors = weights["ema" if each.weights == "ema" else "model"]
        expected = by_hand(run, tensors, each.setting)
        # Batches of another size may round a bf16 product differently.
        assert each.clip == pytest.approx(expected["clip"], abs=5e-3)
        assert each.frechet == pytest.approx(expected["frechet"], rel=5e-3)
        assert len(each.bootstrap.clip) == len(each.bootstrap.frechet) == 100
    frechet = [each.frechet for each in measures.settings]
    assert min(abs(a - b) for a, b in itertools.pairwise(frechet)) > 0.01 * frechet[0]
    facts = (measures.formulation, measures.seed, measures.step, measures.num_steps)
    assert facts == ("rf", 3, 20, 40)
    assert (measures.val_loss_ema, measures.velocity_error_ema) == (0.5, 0.625)
    assert measures.diverged is None
    assert measures.features.num_reference == NUM_REFERENCE
    assert 0 <= measures.scenes <= 1
    assert measures.path_length["path_length"] > 0
    assert measures.path_length["over_distance"] > 1
    assert "clip_loss_in_3_steps" not in measures.path_length  # without 50 steps to compare with


def test_what_few_steps_lose_is_told_of_averaged_weights_at_the_highest_guidance(run, monkeypatch):
    few, many = Setting("ema", 2, 5.0), Setting("ema", 50, 5.0)
    monkeypatch.setattr(measuring, "SETTINGS", (few, many, RAW))
    monkeypatch.setattr(measuring, "SCENES_SETTING", few)
    measures = measure_run(run.folder, NUM, "cpu")
    clip = {each.setting: each.clip for each in measures.settings}
    lost = measures.path_length["clip_loss_in_2_steps"]
    assert lost == pytest.approx(100 * (clip[many] - clip[few]) / clip[many])


def test_a_field_that_is_the_same_everywhere_has_straight_paths_of_its_length(run):
    """A network that says 2 everywhere: every value moves by 2."""
    pipeline = measuring.pipeline_with(
        run, checkpoint.load(best_of(run)).tensors["ema"], run.folder, torch.device("cpu"), "fp32"
    )
    pipeline.network = lambda x, t, cond: torch.full_like(x, 2.0)
    shape = pipeline.noise(0, 0).numel()
    found = measuring._lengths(pipeline, load_prompts()[:3])
    assert found["path_length"] == pytest.approx(2 * shape**0.5, rel=1e-5)
    assert found["over_distance"] == pytest.approx(1.0, rel=1e-5)


def test_a_kill_loses_one_setting_at_most(run, monkeypatch):
    drawn, draw = [], measuring._draw

    def killed_at_the_third(pipeline, prompts, setting):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(setting)
        return draw(pipeline, prompts, setting)

    monkeypatch.setattr(measuring, "_draw", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        measure_run(run.folder, NUM, "cpu")
    assert not (run.folder / "measures.json").exists()
    monkeypatch.setattr(measuring, "_draw", lambda *a: drawn.append(a[2]) or draw(*a))
    whole = measure_run(run.folder, NUM, "cpu")
    assert drawn == [EMA, GUIDED, RAW]
    assert whole.scenes is not None
    measure_run(run.folder, NUM - 1, "cpu")  # other pictures are drawn anew
    assert drawn == 2 * [EMA, GUIDED, RAW]


def test_a_setting_without_finite_pictures_has_no_scores_and_the_others_have(run, weights):
    spoiled = {k: torch.full_like(t, torch.nan) for k, t in weights["model"].items()}
    kept = Checkpoint(20, {**weights, "model": spoiled}, checkpoint.load(best_of(run)).state)
    checkpoint.save_best(run, kept)
    measures = measure_run(run.folder, NUM, "cpu")
    assert [each.setting for each in measures.settings] == [EMA, GUIDED]
    assert measures.diverged is None
    both = {"ema": spoiled, "model": spoiled}
    checkpoint.save_best(run, Checkpoint(21, both, kept.state))
    assert measure_run(run.folder, NUM, "cpu").diverged == (
        "step 21: no setting gives finite pictures"
    )


def best_of(run):
    (folder,) = checkpoints.list_best(run)
    return folder


def test_a_run_that_ended_in_no_finite_numbers_is_reported_and_not_drawn(run, monkeypatch):
    monkeypatch.setattr(measuring, "_draw", None)
    run.result_path.unlink()
    write_json(run.diverged_path, {"step": 31, "why": "the loss is not finite at step 32; 3 ids"})
    measures = measure_run(run.folder, NUM, "cpu")
    assert measures.diverged == "step 31: the loss is not finite at step 32"
    assert (measures.step, measures.val_loss_ema, measures.settings) == (20, 0.5, ())
    checkpoint.remove_best(run)
    assert measure_run(run.folder, NUM, "cpu").step == 0


def test_a_loss_that_blew_up_and_stayed_there_is_divergence(run, monkeypatch):
    monkeypatch.setattr(measuring, "_draw", None)
    write_losses(run, (20, 0.5), (30, 90.0), (40, 5.5))
    measures = measure_run(run.folder, NUM, "cpu")
    assert measures.diverged == "step 40: the validation loss is 5.5, after 0.5 at step 20"


@pytest.mark.parametrize("spoil", [lambda run: run.result_path.unlink(), checkpoint.remove_best])
def test_a_run_that_is_not_finished_or_kept_no_best_step_is_refused(run, spoil):
    spoil(run)
    with pytest.raises(ValueError, match=r"train it to its end with training\.retain\.best=true"):
        measure_run(run.folder, NUM, "cpu")


def test_more_pictures_than_prompts_are_refused(run):
    with pytest.raises(ValueError, match="pictures must be 2 to 904, one a prompt, got 905"):
        measure_run(run.folder, 905, "cpu")
