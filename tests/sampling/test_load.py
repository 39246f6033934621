import json

import numpy as np
import pytest
import torch

import rectiflow
from rectiflow.errors import DataError
from rectiflow.sampling.bundle import assemble
from rectiflow.sampling.load import load
from rectiflow.sealing import sha256
from tests.sampling import tiny

PROMPTS = ["two red circles", "a blue star"]


@pytest.fixture
def run(tmp_path):
    return tiny.write_run(tmp_path / "run")


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def same(pictures, others):
    return all(np.array_equal(a, b) for a, b in zip(pictures, others, strict=True))


def test_a_run_draws_with_the_newest_averaged_weights_and_the_recipes_settings(run):
    model = load(run, precision="fp32")
    assert (model.options.num_steps, model.options.guidance_scale) == (2, 3.0)
    expected = tiny.pipeline(
        tiny.network(seed=9), unconditional_text="empty", options=model.options
    )
    assert same(model.sample(PROMPTS), expected.sample(PROMPTS))
    older = tiny.pipeline(tiny.network(seed=8), unconditional_text="empty", options=model.options)
    assert not same(model.sample(PROMPTS), older.sample(PROMPTS))
    assert model.sample(PROMPTS)[0].info["recipe_hash"] == sha256(run / "config.json")


def test_a_bundle_of_the_run_draws_the_same_pictures(run, tmp_path):
    whole = load(assemble(run, tmp_path / "whole", "fp32"))
    assert same(whole.sample(PROMPTS), load(run).sample(PROMPTS))
    assert whole.recipe_hash == load(run).recipe_hash
    half = load(assemble(run, tmp_path / "half", "fp16"))
    stored = next(half.network.parameters())
    assert stored.dtype == torch.float32  # computed in fp32, from numbers that fp16 holds
    assert torch.equal(stored, stored.half().float())


def test_the_package_loads_by_one_lazy_name(run):
    assert same(rectiflow.load(run).sample(PROMPTS, seed=7), load(run).sample(PROMPTS, seed=7))


def test_a_flipped_byte_is_refused_in_bundles_and_checkpoints(run, tmp_path):
    bundle = assemble(run, tmp_path / "bundle")
    for file in (bundle / "mmdit" / "model.safetensors", *run.glob("checkpoints/*/ema/*")):
        flip_a_byte(file)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        load(bundle)
    with pytest.raises(
        DataError, match=r"is whole: .*10/ema/.*is damaged.*; .*02/ema/.*is damaged"
    ):
        load(run)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run, caplog):
    older = tiny.pipeline(
        tiny.network(seed=8),
        unconditional_text="empty",
        options=load(run, precision="fp32").options,
    )
    (shard,) = run.glob("checkpoints/step-00000010/ema/*")
    flip_a_byte(shard)
    assert same(load(run, precision="fp32").sample(PROMPTS), older.sample(PROMPTS))
    assert f"{shard} is damaged" in caplog.text
    assert caplog.text.count("taking the checkpoint before") == 1
    assert shard.is_file()  # who reads a run changes nothing in it


def test_weights_of_another_shape_are_refused(run):
    other = tiny.network().state_dict()
    other.pop("patch_embedding.bias")
    tiny.add_checkpoint(run, 10, other)
    with pytest.raises(DataError, match="does not fit the network's configuration"):
        load(run)


def test_a_run_that_cannot_draw_says_why(run, tmp_path):
    for folder in (run / "checkpoints").iterdir():
        folder.rename(tmp_path / folder.name)
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet; train it first"):
        load(run)
    for folder in tmp_path.glob("step-*"):
        folder.rename(run / "checkpoints" / folder.name)
    whole = json.loads((run / "config.json").read_text())
    for section, name in (("data", "size_px"), ("objective", "formulation"), (None, "model")):
        values = json.loads(json.dumps(whole))
        del (values if section is None else values[section])[name]
        (run / "config.json").write_text(json.dumps(values))
        with pytest.raises(DataError, match=rf"config\.json is damaged: .*{name}"):
            load(run)
    (run / "config.json").write_text('{"kind": "autoencoder"}')
    with pytest.raises(ValueError, match="trains autoencoder; only a flow run can draw"):
        load(run)
