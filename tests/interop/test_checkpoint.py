"""Opening checkpoints: the layout, the configuration from shapes, the weights, and refusals."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rectiflow.errors import DataError
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.interop.shapes import release_of
from rectiflow.nn.releases import RELEASES
from rectiflow.sampling.bundle import packaged_bundles
from rectiflow.sealing import seal
from tests.interop.networks import (
    DUAL,
    NORMED,
    PLAIN,
    SMALL,
    VARIANTS,
    foreign_weights,
    network,
    same,
    write_diffusers,
    write_stability,
)
from tests.sampling.tiny import write_run


@pytest.mark.parametrize("variant", VARIANTS)
def test_configuration_and_weights_come_out_of_either_layout_as_they_went_in(variant, tmp_path):
    model = network(VARIANTS[variant])
    single = open_checkpoint(write_stability(tmp_path / "m.safetensors", model))
    bare = open_checkpoint(write_stability(tmp_path / "bare.safetensors", model, prefix=""))
    folder = open_checkpoint(write_diffusers(tmp_path / "transformer", model))
    pipeline = open_checkpoint(tmp_path / "transformer")
    for opened, layout in ((single, "stability"), (bare, "stability"), (folder, "diffusers")):
        assert opened.layout == layout
        assert opened.config == model.config
        assert same(opened.load_network().state_dict(), model.state_dict())
    assert pipeline.config == model.config


def test_a_network_is_loaded_in_the_type_asked_for_and_runs(tmp_path):
    opened = open_checkpoint(write_stability(tmp_path / "m.safetensors", network(DUAL)))
    loaded = opened.load_network(torch.bfloat16)
    assert {x.dtype for x in loaded.state_dict().values()} == {torch.bfloat16}
    assert not loaded.training


@pytest.mark.parametrize("base_side", [1, 3, 4, 6])
def test_the_base_size_is_read_off_the_positions(base_side, tmp_path):
    config = replace(NORMED, base_side=base_side)
    path = write_stability(tmp_path / "m.safetensors", network(config))
    assert open_checkpoint(path).config.base_side == base_side


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_base_size_is_read_off_rounded_positions_too(dtype, tmp_path):
    model = network(replace(NORMED, base_side=5)).to(dtype)
    assert open_checkpoint(write_stability(tmp_path / "m.safetensors", model)).config.base_side == 5


def test_positions_of_another_spacing_are_kept_as_they_are(tmp_path):
    model = network(NORMED)
    model.positions.table.mul_(0.9)
    folder = write_diffusers(tmp_path / "t", model, {"sample_size": 6})
    opened = open_checkpoint(folder)
    assert opened.config.base_side == 3  # sample_size / patch_size
    assert torch.equal(opened.load_network().positions.table, model.positions.table)
    single = open_checkpoint(write_stability(tmp_path / "m.safetensors", model))
    assert single.config.base_side == 6  # that of the releases would be larger than the table


def test_heads_of_another_width_need_diffusers_settings_unless_they_are_normalised(tmp_path):
    config = replace(PLAIN, head_width=16, num_heads=4)
    folder = write_diffusers(tmp_path / "t", network(config))
    assert open_checkpoint(folder).config == config
    assert open_checkpoint(write_diffusers(tmp_path / "n", network(SMALL))).config == SMALL
    file = open_checkpoint(folder / "diffusion_pytorch_model.safetensors")
    assert file.config.head_width == 64  # alone, a file does not tell


def test_parts_of_a_single_file_lose_the_containers_prefix(tmp_path):
    more = {
        "first_stage_model.decoder.conv_in.weight": torch.ones(2, 3),
        "text_encoders.clip_l.transformer.text_model.a.weight": torch.full((2,), 2.0),
        "text_encoders.clip_l.logit_scale": torch.tensor(4.6),
        "text_encoders.clip_l.transformer.text_model.position_ids": torch.arange(3),
        "text_encoders.clip_g.transformer.text_projection.weight": torch.full((2,), 3.0),
    }
    path = write_stability(tmp_path / "m.safetensors", network(SMALL), more=more)
    opened = open_checkpoint(path)
    assert opened.config == SMALL
    assert [*opened.part("vae")] == ["decoder.conv_in.weight"]
    clip_l = opened.part("clip_l")
    assert clip_l.keys() == {"text_model.a.weight", "text_model.position_ids", "logit_scale"}
    assert clip_l["text_model.position_ids"].tolist() == [0, 1, 2]
    assert opened.part("clip_g")["text_projection.weight"].tolist() == [3, 3]
    assert opened.part("t5xxl") is None
    with pytest.raises(ValueError, match="parts are vae, clip_l, clip_g, t5xxl, got 'unet'"):
        opened.part("unet")


def test_eight_bit_weights_are_widened_and_multiplied_by_their_scale(tmp_path):
    eight = torch.tensor([[0.5, -2.0], [1.0, 448.0]]).to(torch.float8_e4m3fn)
    at = "text_encoders.t5xxl.transformer."
    more = {
        f"{at}scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn),
        f"{at}q.weight": eight.clone(),
        f"{at}q.scale_weight": torch.tensor(0.5),
        f"{at}q.scale_input": torch.tensor(7.0),
        f"{at}k.weight": eight.clone(),
        f"{at}k.scale_weight": torch.tensor([2.0, 4.0]),  # one per row
        f"{at}v.weight": eight,
    }
    t5 = open_checkpoint(
        write_stability(tmp_path / "m.safetensors", network(SMALL), more=more)
    ).part("t5xxl")
    assert t5.keys() == {"q.weight", "k.weight", "v.weight"}
    assert {value.dtype for value in t5.values()} == {torch.bfloat16}
    assert t5["q.weight"].tolist() == [[0.25, -1], [0.5, 224]]
    assert t5["k.weight"].tolist() == [[1, -4], [4, 1792]]
    assert t5["v.weight"].tolist() == [[0.5, -2], [1, 448]]


def test_an_eight_bit_network_is_widened_too(tmp_path):
    weights = foreign_weights(network(SMALL), "stability")
    name = "context_embedder.weight"
    weights[name] = weights[name].to(torch.float8_e4m3fn)
    expected = weights[name].float() * 3
    weights |= {"context_embedder.scale_weight": torch.tensor(3.0), "scaled_fp8": torch.empty(0)}
    save_file(weights, tmp_path / "m.safetensors")
    loaded = open_checkpoint(tmp_path / "m.safetensors").load_network()
    assert torch.equal(loaded.context_embedding.weight, expected.bfloat16().float())


def test_bundles_and_runs_open_with_their_recipe(tmp_path):
    bundle = open_checkpoint(packaged_bundles() / "scenes-tiny")
    assert bundle.layout == "rectiflow"
    assert bundle.facts["recipe"]["name"] == "scenes-tiny"
    assert (bundle.folder / "text_encoder_3").is_dir()
    run = write_run(tmp_path / "run")
    opened = open_checkpoint(run)
    weights = load_file(run / "export" / "mmdit" / "model.safetensors")
    assert same(opened.load_network().state_dict(), weights)


def test_a_model_of_another_backbone_is_refused(tmp_path):
    export = write_run(tmp_path / "run") / "export"
    (export / "mmdit").rename(export / "uvit")
    seal(export, {})
    with pytest.raises(FileNotFoundError, match=r"no mmdit/config\.json; only an MM-DiT converts"):
        open_checkpoint(tmp_path / "run")


def test_three_weight_sets_are_opened_in_our_own_layout(tmp_path):
    run = write_run(tmp_path / "run")
    config = replace(SMALL, num_weight_sets=3)
    place = run / "export" / "mmdit"
    (place / "config.json").write_text(json.dumps(asdict(config)))
    save_file(network(config).state_dict(), place / "model.safetensors")
    seal(run / "export", {})
    assert open_checkpoint(run).config == config
    assert open_checkpoint(run).load_network().config.num_weight_sets == 3


def test_shards_are_read_through_their_index(tmp_path):
    model = network(SMALL)
    folder = write_diffusers(tmp_path / "t", model)
    whole = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, chosen in halves.items():
        save_file({name: weights[name] for name in chosen}, folder / file)
    shards = {name: file for file, chosen in halves.items() for name in chosen}
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    assert same(open_checkpoint(folder).load_network().state_dict(), model.state_dict())

    index.write_text(json.dumps({"weight_map": {**shards, names[0]: "../secret.safetensors"}}))
    with pytest.raises(DataError, match="outside its folder"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {**shards, names[0]: "b.safetensors"}}))
    with pytest.raises(DataError, match="does not hold what"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(DataError, match="must map tensors to files"):
        open_checkpoint(folder)


def test_a_variant_is_taken_if_it_is_the_only_one(tmp_path):
    folder = write_diffusers(tmp_path / "t", network(SMALL))
    file = folder / "diffusion_pytorch_model.safetensors"
    file.rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert open_checkpoint(folder).config == SMALL
    save_file({}, folder / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(FileNotFoundError, match=r"bf16\.safetensors, .*fp16"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_layers": 3}, "num_layers 3 where the weights have 2"),
        ({"qk_norm": None}, "qk_norm None where the weights have 'rms_norm'"),
        ({"attention_head_dim": 2}, "attention_head_dim 2 where the weights have 4"),
        ({"dual_attention_layers": []}, r"dual_attention_layers \[\] where"),
        ({"dual_attention_layers": True}, "dual_attention_layers True where"),
        ({"attention_head_dim": "64"}, "must be a positive integer: '64'"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(changes, told, tmp_path):
    folder = write_diffusers(tmp_path / "t", network(SMALL), changes)
    with pytest.raises(DataError, match=told):
        open_checkpoint(folder)


def test_missing_unknown_and_misshapen_tensors_are_all_listed(tmp_path):
    weights = foreign_weights(network(SMALL), "stability")
    del weights["joint_blocks.1.x_block.mlp.fc1.bias"]
    weights["joint_blocks.1.context_block.mlp.fc1.bias"] = torch.zeros(4)
    weights["t_embedder.mlp.2.bias"] = torch.zeros(5)
    save_file(weights, tmp_path / "m.safetensors")
    with pytest.raises(DataError) as caught:
        open_checkpoint(tmp_path / "m.safetensors")
    told = str(caught.value)
    assert told.startswith(str(tmp_path / "m.safetensors"))
    assert "missing joint_blocks.1.x_block.mlp.fc1.bias;" in told
    assert "unknown joint_blocks.1.context_block.mlp.fc1.bias;" in told
    assert "shape t_embedder.mlp.2.bias [5] for [4]" in told


def test_tensors_beside_the_known_parts_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    write_stability(path, network(SMALL), more={"controlnet.x": torch.zeros(1)})
    with pytest.raises(DataError, match=r'no known part: \["controlnet.x"\]'):
        open_checkpoint(path)


def test_weights_that_are_not_finite_or_no_floats_are_refused_by_name(tmp_path):
    model = network(SMALL)
    model.final.project.bias.data[1] = torch.inf
    path = write_stability(tmp_path / "m.safetensors", model)
    with pytest.raises(DataError, match=r"m\.safetensors: final_layer.linear.bias holds 1 values"):
        open_checkpoint(path).load_network()
    weights = foreign_weights(model, "stability")
    weights["final_layer.linear.bias"] = torch.zeros(16, dtype=torch.int32)
    save_file(weights, tmp_path / "i.safetensors")
    with pytest.raises(DataError, match=r"final_layer.linear.bias must hold weights, it is I32"):
        open_checkpoint(tmp_path / "i.safetensors").load_network()


def test_turbo_is_known_by_its_name_or_by_what_we_noted(tmp_path, monkeypatch):
    large = RELEASES["sd3.5-large"]
    for name, release in (
        ("sd3.5_large.safetensors", "sd3.5-large"),
        ("sd3.5_large_Turbo.safetensors", "sd3.5-large-turbo"),
        ("turbo/model.safetensors", "sd3.5-large"),
        ("large-turbo", "sd3.5-large-turbo"),
        ("large-turbo/transformer", "sd3.5-large-turbo"),
        ("models--someone--large-turbo/snapshots/1f", "sd3.5-large-turbo"),
    ):
        assert release_of(large, tmp_path / "x" / name) == release, name
    monkeypatch.chdir(tmp_path)
    assert release_of(large, Path("a_turbo.safetensors")) == "sd3.5-large-turbo"
    assert release_of(large, tmp_path / "x", noted="sd3.5-large-turbo") == "sd3.5-large-turbo"
    medium = RELEASES["sd3.5-medium"]
    assert release_of(medium, tmp_path / "turbo", noted="sd3.5-large-turbo") == "sd3.5-medium"


def test_what_is_no_checkpoint_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no network"):
        open_checkpoint(tmp_path)
    save_file({"unet.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"no MM-DiT in a known layout: it holds unet.weight"):
        open_checkpoint(tmp_path)
    save_file({"unet.weight": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="holds 2 safetensors files; name one"):
        open_checkpoint(tmp_path)
    (tmp_path / "p.ckpt").write_bytes(b"\x80\x04pickled")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        open_checkpoint(tmp_path / "p.ckpt")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="is of a AutoencoderKL"):
        open_checkpoint(tmp_path / "vae")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"kind": "flow"}')
    with pytest.raises(FileNotFoundError, match="run without an export; let it finish"):
        open_checkpoint(tmp_path / "run")
