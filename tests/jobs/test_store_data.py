"""Training on a store that lies somewhere: the same as on what was encoded into it."""

import pytest

from rectiflow.jobs import run_training
from rectiflow.runs import Run, without_clock
from rectiflow.training.recipe import load_recipe
from tests.jobs.test_running import silent

QUICK = [
    *("training.num_steps=2", "training.batch_size=4", "data.size_px=32", "data.num_validation=4"),
    *("model.depth=1", "sampling.num_steps=1", "sampling.num_pictures=2"),
]


def rows(folder):
    return [without_clock(row) for row in Run(folder).metrics()]


def test_a_run_on_an_encoded_store_is_the_run_on_its_scenes_and_drawn_latents_are_not(tmp_path):
    scenes = [*QUICK, "data.num_scenes=16"]
    run_training("scenes-tiny", scenes, tmp_path / "scenes", False, silent)
    (stores,) = (tmp_path / "stores").iterdir()
    paths = f"data.store={stores / 'training'}", f"data.validation={stores / 'validation'}"
    run_training("scenes-tiny", [*QUICK, *paths], tmp_path / "elsewhere" / "a", False, silent)
    assert rows(tmp_path / "elsewhere" / "a") == rows(tmp_path / "scenes")
    assert not (tmp_path / "elsewhere" / "stores").exists()
    run_training("scenes-tiny", [*scenes, "data.latent=sample"], tmp_path / "b", False, silent)
    assert list((tmp_path / "stores").iterdir()) == [stores]
    drawn, mean = rows(tmp_path / "b"), rows(tmp_path / "scenes")
    assert drawn[0]["loss"] != mean[0]["loss"]
    assert drawn[0]["loss"] == pytest.approx(mean[0]["loss"], rel=0.2)
    plan = run_training("scenes-tiny", [*QUICK, *paths], tmp_path / "plan", True, silent)
    sizes = [file.stat().st_size for file in (stores / "training").rglob("*.arrow")]
    assert plan["costs"]["store_bytes"] == sum(sizes)


def test_a_store_is_chosen_by_its_setting_and_pictures_are_for_encoders_only():
    recipe = load_recipe("scenes-tiny", ["data.store=s3://bucket/store", "data.cache_bytes=5"])
    assert (recipe.data.kind, recipe.data.store) == ("store", "s3://bucket/store")
    assert load_recipe("scenes-tiny", ["data.path=/pictures"]).data.kind == "folder"
    with pytest.raises(ValueError, match=r"unknown setting data.store"):
        load_recipe("autoencoder-tiny", ["data.store=/store"])
    with pytest.raises(ValueError, match=r"data.latent says .* must be 'mean' here.*'sample'"):
        load_recipe("encoders-tiny", ["data.latent=sample"])
    with pytest.raises(ValueError, match="store and validation must name encoded stores"):
        load_recipe("scenes-tiny", ["data.store="])
    with pytest.raises(ValueError, match="cache_bytes must be >= 1, got 0"):
        load_recipe("scenes-tiny", ["data.store=x", "data.cache_bytes=0"])
