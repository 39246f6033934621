"""A run's folder belongs to its recipe; the weights of another run are a start, not a resume."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from rectiflow import checkpoints
from rectiflow.errors import DataError
from rectiflow.runs import Run
from rectiflow.training.ema import named_tensors
from rectiflow.training.recipe import load_recipe
from rectiflow.training.resume import claim, load_initial
from tests.training.tiny import tiny_objective, tiny_settings, tiny_train


@pytest.fixture
def recipe(tmp_path):
    text = 'kind = "flow"\n[data]\nkind = "scenes"\n[training]\nnum_steps = 10\n'
    (tmp_path / "mine.toml").write_text(text)
    return load_recipe(str(tmp_path / "mine.toml"))


def test_the_same_recipe_may_change_its_cadence_and_its_workers(recipe, tmp_path):
    run = Run(tmp_path / "run")
    claim(run, recipe)
    claim(run, with_training(recipe, log_every_steps=7, num_workers=3, device="cpu"))
    assert run.config()["training"]["log_every_steps"] == 7


def test_any_other_change_is_refused_by_name(recipe, tmp_path):
    run = Run(tmp_path / "run")
    claim(run, recipe)
    run.metrics_path.touch()
    changed = with_training(recipe, learning_rate=0.5, num_steps=11)
    message = (
        r"cannot resume with other settings: training.num_steps was 10, now 11, "
        r"training.learning_rate was 0.001, now 0.5; .*training.init_from="
    )
    with pytest.raises(ValueError, match=message):
        claim(run, changed)
    assert run.config()["training"]["num_steps"] == 10


def test_minutes_and_steps_are_not_the_same_run(recipe, tmp_path):
    claim(Run(tmp_path / "run"), recipe)
    Run(tmp_path / "run").metrics_path.touch()
    with pytest.raises(ValueError, match=r"num_steps was 10, now None, training.minutes was None"):
        claim(Run(tmp_path / "run"), with_training(recipe, num_steps=None, minutes=1.0))


def test_a_mistake_found_before_the_first_step_can_be_mended_in_the_same_folder(recipe, tmp_path):
    run = Run(tmp_path / "run")
    claim(run, with_training(recipe, init_from="/no/such/run"))
    claim(run, recipe)
    assert run.config()["training"]["init_from"] is None


def test_the_folder_of_another_recipe_is_refused(recipe, tmp_path):
    claim(Run(tmp_path / "run"), recipe)
    other = load_recipe(str(tmp_path / "mine.toml"), ["kind=autoencoder"])
    with pytest.raises(ValueError, match="run of another recipe: its kind is 'flow'"):
        claim(Run(tmp_path / "run"), other)
    other = load_recipe(str(tmp_path / "mine.toml"), ["name=yours"])
    with pytest.raises(ValueError, match="its name is 'mine', this one's is 'yours'"):
        claim(Run(tmp_path / "run"), other)


def test_a_folder_that_lost_its_settings_is_not_taken_over(recipe, tmp_path):
    tiny_train(tmp_path / "run", tiny_settings(num_steps=2))
    with pytest.raises(DataError, match=r"config\.json is missing"):
        claim(Run(tmp_path / "run"), recipe)
    (tmp_path / "run" / "config.json").write_text('{"kind": "flow", "name": "mine"}')
    with pytest.raises(DataError, match=r"config\.json is damaged: missing setting data"):
        claim(Run(tmp_path / "run"), recipe)


def test_a_run_starts_from_the_averaged_weights_of_another(tmp_path):
    first = Run(tmp_path / "first")
    tiny_train(first.folder, tiny_settings(num_steps=5))
    averaged = checkpoints.load_group(checkpoints.newest(first), "ema")
    objective, seen = tiny_objective(seed=1), {}

    def on_progress(step, num_steps, metrics):
        if step == 1:
            seen.update({n: t.detach().clone() for n, t in named_tensors(objective.model).items()})

    settings = tiny_settings(init_from=str(first.folder), learning_rate=1e-12, optimizer="adamw")
    tiny_train(tmp_path / "second", settings, objective, on_progress)
    for name, tensor in averaged.items():
        torch.testing.assert_close(seen[name], tensor)


def test_a_damaged_state_of_the_other_run_is_one_line(tmp_path):
    tiny_train(tmp_path, tiny_settings(num_steps=2))
    file = checkpoints.newest(Run(tmp_path)) / "state.json"
    file.write_text(file.read_text().replace('"files"', '"filez"'))
    with pytest.raises(DataError, match=r"state\.json is damaged: its checksum does not match"):
        load_initial(tiny_objective().model, str(tmp_path))


def test_a_damaged_newest_checkpoint_of_the_other_run_gives_way_to_the_one_before(tmp_path, caplog):
    tiny_train(tmp_path, tiny_settings(num_steps=10))
    before, last = checkpoints.list_checkpoints(Run(tmp_path))
    averaged = checkpoints.load_group(before, "ema")
    (shard,) = (last / "ema").iterdir()
    shard.unlink()
    objective = tiny_objective(seed=1)
    load_initial(objective.model, str(tmp_path))
    for name, tensor in named_tensors(objective.model).items():
        assert torch.equal(tensor, averaged[name])
    assert f"taking the checkpoint before, {before}" in caplog.text


def test_weights_come_from_a_file_or_a_bundle(tmp_path):
    source = tiny_objective(seed=1).model
    weights = {name: tensor.detach() for name, tensor in named_tensors(source).items()}
    (tmp_path / "mmdit").mkdir()
    save_file(weights, tmp_path / "mmdit" / "model.safetensors")
    for path in (tmp_path, tmp_path / "mmdit" / "model.safetensors"):
        model = tiny_objective(seed=2).model
        load_initial(model, str(path))
        for name, tensor in named_tensors(model).items():
            assert torch.equal(tensor, weights[name])


def test_a_bundle_gives_the_network_that_fits(tmp_path):
    weights = {n: t.detach() for n, t in named_tensors(tiny_objective(seed=1).model).items()}
    (tmp_path / "mmdit").mkdir()
    save_file({"another.weight": torch.zeros(3)}, tmp_path / "mmdit" / "model.safetensors")
    (tmp_path / "vae").mkdir()
    save_file(weights, tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    model = tiny_objective(seed=2).model
    load_initial(model, str(tmp_path))
    for name, tensor in named_tensors(model).items():
        assert torch.equal(tensor, weights[name])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    model = tiny_objective().model
    with pytest.raises(FileNotFoundError, match=r"init_from: no run, bundle or file at .*nowhere"):
        load_initial(model, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no checkpoint and no weights"):
        load_initial(model, str(tmp_path))
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.safetensors is not a safetensors file"):
        load_initial(model, str(tmp_path / "a.safetensors"))
    weights = {n: t.detach() for n, t in named_tensors(model).items()}
    weights["final.project.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"final\.project\.bias has shape \(3,\) in .*b\.safet"):
        load_initial(model, str(tmp_path / "b.safetensors"))


def with_training(recipe, **changes):
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **changes))
