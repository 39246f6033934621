"""Conversions: every bit stays, what cannot be written is refused, nothing half is left behind."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rectiflow.errors import DataError
from rectiflow.flow.formulations import formulation
from rectiflow.flow.predictions import VelocityPrediction
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.interop.conversion import NOTICE, convert, plan
from rectiflow.interop.pipeline_folder import shift_of
from rectiflow.interop.shapes import RELEASED
from rectiflow.nn.releases import RELEASES
from rectiflow.sampling.bundle import packaged_bundles
from tests.encoders.released.ldm import ldm_tensors
from tests.encoders.released.tiny import models as models_in_small
from tests.encoders.released.tiny import state
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

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PREFIX = "model.diffusion_model."


def converted(source, to, target, **options):
    return convert(plan(open_checkpoint(source), to, target, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_round_every_bit_returns(variant, dtype, tmp_path):
    model = network(VARIANTS[variant]).to(dtype)
    first = write_stability(tmp_path / "first.safetensors", model)
    folder = converted(first, "diffusers", tmp_path / "folder")
    assert same(load_file(folder / WEIGHTS), foreign_weights(model, "diffusers"))
    second = converted(folder, "stability", tmp_path / "second.safetensors")
    assert same(load_file(second), load_file(first))
    again = converted(second, "diffusers", tmp_path / "again", shard_bytes=300_000)
    assert same(load_file(folder / WEIGHTS), shards_of(again))
    assert open_checkpoint(again).config == model.config


def shards_of(folder):
    place = folder / "transformer"
    index = json.loads((place / "diffusion_pytorch_model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0].endswith(f"-00001-of-{len(files):05}.safetensors")
    tensors = {}
    for file in files:
        shard = load_file(place / file)
        assert all(index["weight_map"][name] == file for name in shard)
        sizes = [x.numel() * x.itemsize for x in shard.values()]
        assert sum(sizes) <= 300_000 or len(sizes) == 1
        tensors |= shard
    sizes = [x.numel() * x.itemsize for x in tensors.values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    return tensors


def test_any_depth_and_heads_go_to_diffusers_but_not_to_the_original_layout(tmp_path):
    config = replace(NORMED, depth=3, num_heads=2, head_width=8)
    source = write_diffusers(tmp_path / "t", network(config))
    folder = converted(source, "diffusers", tmp_path / "folder")
    assert open_checkpoint(folder).config == config
    with pytest.raises(ValueError, match=r"depth = heads = width / 64, got depth 3, heads 2, wid"):
        plan(open_checkpoint(source), "stability", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"num_weight_sets": 3}, "two sets of weights"), ({"table_rows": 5}, "square table")],
)
def test_what_neither_layout_can_hold_is_refused(changes, told, tmp_path):
    opened = open_checkpoint(write_stability(tmp_path / "m.safetensors", network(NORMED)))
    opened = replace(opened, config=replace(NORMED, **changes))
    for to, target in (("diffusers", "folder"), ("stability", "x.safetensors")):
        with pytest.raises(ValueError, match=told):
            plan(opened, to, tmp_path / target)


def test_an_output_that_is_no_velocity_of_a_rectified_flow_is_refused(tmp_path, monkeypatch):
    opened = open_checkpoint(packaged_bundles() / "scenes-tiny")
    name = opened.facts["recipe"]["objective"]["formulation"]
    plan(opened, "diffusers", tmp_path / "x")
    other = replace(formulation(name), prediction=type("Noise", (VelocityPrediction,), {})())
    monkeypatch.setattr("rectiflow.interop.conversion.formulation", lambda _: other)
    with pytest.raises(ValueError, match=r"take the output for the velocity .* rf/lognorm"):
        plan(opened, "diffusers", tmp_path / "x")


def test_targets_that_do_not_suit_are_refused(tmp_path):
    source = open_checkpoint(write_stability(tmp_path / "m.safetensors", network(PLAIN)))
    with pytest.raises(ValueError, match="must be empty or not there"):
        plan(source, "diffusers", tmp_path)
    with pytest.raises(ValueError, match=r"one file ending in \.safetensors"):
        plan(source, "stability", tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="must not be there yet"):
        plan(source, "stability", tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="shards are for diffusers"):
        plan(source, "stability", tmp_path / "x.safetensors", shard_bytes=10)
    with pytest.raises(ValueError, match="at least 1 byte, got 0"):
        plan(source, "diffusers", tmp_path / "x", shard_bytes=0)


def test_the_plan_says_what_is_then_written(tmp_path):
    source = open_checkpoint(write_stability(tmp_path / "m.safetensors", network(DUAL)))
    for to, name in (("diffusers", "folder"), ("stability", "x.safetensors")):
        made = plan(source, to, tmp_path / name, dtype=torch.bfloat16)
        facts = made.facts()
        assert not (tmp_path / name).exists()
        place = convert(made)
        file = place / WEIGHTS if to == "diffusers" else place
        tensors = load_file(file)
        assert len(tensors) == facts["tensors"]
        assert facts["bytes"] == sum(2 * x.numel() for x in tensors.values())
        assert facts["files"] == [file.name]
        assert {x.dtype for x in tensors.values()} == {torch.bfloat16}
        assert facts["layout"] == "stability"
        json.dumps(facts)


def test_weights_that_do_not_fit_the_type_are_refused_and_leave_nothing(tmp_path):
    model = network(PLAIN)
    model.final.project.bias.data[0] = 1e5
    source = write_stability(tmp_path / "m.safetensors", model)
    for to, name in (("diffusers", "folder"), ("stability", "x.safetensors")):
        with pytest.raises(ValueError, match=r"final\.project\.bias .* does not fit torch.float16"):
            converted(source, to, tmp_path / name, dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_damaged_source_leaves_nothing_either(tmp_path):
    good = write_stability(tmp_path / "m.safetensors", network(PLAIN))
    ours = converted(good, "stability", tmp_path / "ours.safetensors")
    content = bytearray(ours.read_bytes())
    content[-7] ^= 1
    ours.write_bytes(content)
    with pytest.raises(DataError, match=r"ours\.safetensors is damaged: it differs"):
        converted(ours, "diffusers", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "ours.safetensors"]


def test_our_recipe_and_what_others_noted_travel_with_the_weights(tmp_path):
    run = write_run(tmp_path / "run")  # heads of 64, depth 1
    recipe = {"name": "tiny", "sampling": {"shift": 2.5}}
    opened = replace(open_checkpoint(run), facts={"recipe": recipe})
    file = convert(plan(opened, "stability", tmp_path / "x.safetensors"))
    assert open_checkpoint(file).facts["recipe"] == recipe
    folder = converted(file, "diffusers", tmp_path / "folder")
    assert open_checkpoint(folder).facts["recipe"] == recipe
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == 2.5
    assert scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler"

    noted = {"license": "of a stranger", "modelspec.title": "T", "modelspec.hash_sha256": "0"}
    source = write_stability(tmp_path / "m.safetensors", network(PLAIN), metadata=noted)
    again = open_checkpoint(converted(source, "diffusers", tmp_path / "again"))
    assert again.metadata["license"] == "of a stranger"
    assert again.metadata["modelspec.title"] == "T"
    assert "modelspec.hash_sha256" not in again.metadata  # of a file that had other bytes


@pytest.mark.parametrize("release", RELEASED)
def test_a_release_keeps_its_licence_and_its_shift(release, tmp_path):
    opened = open_checkpoint(write_stability(tmp_path / "m.safetensors", network(PLAIN)))
    opened = replace(opened, release=release)
    folder = convert(plan(opened, "diffusers", tmp_path / "folder"))
    assert open_checkpoint(folder).metadata["license"] == NOTICE
    assert (folder / "NOTICE.txt").read_text() == NOTICE + "\n"
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == 3
    assert RELEASES[release].base_side == 64
    assert open_checkpoint(folder).facts["release"] == release


def test_a_shape_of_a_release_is_not_taken_for_one_if_we_trained_it(tmp_path, monkeypatch):
    monkeypatch.setattr("rectiflow.interop.checkpoint.release_of", lambda *_: "sd3-medium")
    file = write_stability(tmp_path / "m.safetensors", network(PLAIN))
    opened = open_checkpoint(file)
    assert opened.release == "sd3-medium"
    ours = replace(opened, release=None, facts={"recipe": {"name": "mine"}})
    target = open_checkpoint(convert(plan(ours, "stability", tmp_path / "o.safetensors")))
    assert target.release is None
    assert "license" not in target.metadata


def test_a_whole_pipeline_keeps_its_parts_its_index_and_its_licence(tmp_path):
    first = converted(packaged_bundles() / "scenes-tiny", "diffusers", tmp_path / "first")
    (first / "LICENSE.md").write_text("mine")
    (first / "scheduler" / "scheduler_config.json").write_text('{"shift": 7}')
    second = converted(first, "diffusers", tmp_path / "second", dtype=torch.bfloat16)
    for path in first.rglob("*"):
        if path.is_file() and path.parent.name != "transformer":
            copy = second / path.relative_to(first)
            assert copy.read_bytes() == path.read_bytes(), path
    made = plan(open_checkpoint(first), "stability", tmp_path / "x.safetensors")
    assert made.parts == []
    assert "vae" in made.left_out  # the original layout has no place for its scale and shift
    assert "tokenizer_3" in made.left_out


def vae_inside():
    return {f"first_stage_model.{name}": value for name, value in ldm_tensors().items()}


def test_the_released_autoencoder_goes_both_ways_bit_for_bit(tmp_path):
    first = write_stability(tmp_path / "m.safetensors", network(PLAIN), more=vae_inside())
    folder = converted(first, "diffusers", tmp_path / "folder")
    assert (folder / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    assert not (folder / "model_index.json").exists()  # there is no text encoder
    second = converted(folder, "stability", tmp_path / "second.safetensors")
    assert same(load_file(second), load_file(first))


def test_text_encoders_inside_a_file_become_folders_bit_for_bit(tmp_path):
    more, models = {}, dict(zip(("clip_l", "clip_g", "t5xxl"), models_in_small(), strict=True))
    for part, model in models.items():
        for name, value in state(
            copy.deepcopy(model).bfloat16() if part == "t5xxl" else model
        ).items():
            more[f"text_encoders.{part}.transformer.{name}"] = value.clone()
    more.pop("text_encoders.t5xxl.transformer.encoder.embed_tokens.weight", None)
    source = write_stability(tmp_path / "m.safetensors", network(PLAIN), more=more)
    made = plan(open_checkpoint(source), "diffusers", tmp_path / "folder")
    assert made.parts == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    folder = convert(made)
    for part, place in zip(models, made.parts, strict=True):
        prefix = f"text_encoders.{part}.transformer."
        expected = {k.removeprefix(prefix): v for k, v in more.items() if k.startswith(prefix)}
        assert same(load_file(folder / place / "model.safetensors"), expected), part
        assert (folder / place / "config.json").is_file()


def test_a_t5_in_float16_and_a_clip_of_two_types_lose_no_bit(tmp_path):
    _, clip_g, t5 = models_in_small()
    narrow = {name: value.half() for name, value in state(t5).items()}
    del narrow["encoder.embed_tokens.weight"]
    mixed = state(clip_g)
    first = min(mixed)
    mixed[first] = mixed[first].half()
    mixed["text_model.embeddings.position_ids"] = torch.arange(3)[None]
    more = {f"text_encoders.t5xxl.transformer.{name}": value for name, value in narrow.items()}
    more |= {f"text_encoders.clip_g.transformer.{name}": value for name, value in mixed.items()}
    source = write_stability(tmp_path / "m.safetensors", network(PLAIN), more=more)
    folder = converted(source, "diffusers", tmp_path / "folder")
    assert same(load_file(folder / "text_encoder_3" / "model.safetensors"), narrow)
    written = load_file(folder / "text_encoder_2" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32}
    assert all(torch.equal(value, mixed[name].float()) for name, value in written.items())


def test_parts_beside_are_whole_and_nothing_but_weights_and_settings_is_copied(tmp_path):
    source = tmp_path / "m"
    write_diffusers(source / "transformer", network(SMALL))
    (source / "text_encoder").mkdir()
    (source / "text_encoder" / "config.json").write_text("{}")
    (source / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match="text_encoder holds no safetensors"):
        plan(open_checkpoint(source), "diffusers", tmp_path / "x")
    weights = source / "text_encoder" / "model.safetensors"
    save_file({"a": torch.ones(4)}, weights)
    (source / "text_encoder" / "modeling.py").write_text("print()")
    (source / "NOTICE.txt").write_text("mine")
    opened = replace(open_checkpoint(source), release="sd3-medium")
    folder = convert(plan(opened, "diffusers", tmp_path / "x"))
    copied = {path.name for path in (folder / "text_encoder").iterdir()}
    assert copied == {"config.json", "model.safetensors"}
    assert (folder / "NOTICE.txt").read_text() == "mine"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"text_encoder/model\.safetensors cannot be read"):
        plan(open_checkpoint(source), "diffusers", tmp_path / "y")


def test_the_shift_is_the_scheduler_s_the_recipe_s_or_that_of_the_releases(tmp_path):
    single = open_checkpoint(write_stability(tmp_path / "m.safetensors", network(PLAIN)))
    assert shift_of(single) == 3  # as it is drawn
    assert shift_of(replace(single, facts={"recipe": {"sampling": {"shift": 1.5}}})) == 1.5
    assert shift_of(replace(single, facts={"recipe": {"name": "mine"}})) == 1
    write_diffusers(tmp_path / "m" / "transformer", network(PLAIN))
    (tmp_path / "m" / "scheduler").mkdir()
    file = tmp_path / "m" / "scheduler" / "scheduler_config.json"
    for shift, told in ((2, None), ([1], "must be a number"), (-1, "> 0"), (True, "number")):
        file.write_text(json.dumps({"shift": shift}))
        folder = open_checkpoint(tmp_path / "m")
        if told is None:
            assert plan(folder, "diffusers", tmp_path / "x").facts()["shift"] == 2
            continue
        with pytest.raises(DataError, match=told):
            shift_of(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers_per_block": 10**9}, "no autoencoder's: .*layers_per_block 1000000000"),
        ({"block_out_channels": 3}, "no autoencoder's: block_out_channels 3"),
        (None, "missing: decoder.conv_out.bias"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(changes, told, tmp_path):
    first = write_stability(tmp_path / "m.safetensors", network(PLAIN), more=vae_inside())
    folder = converted(first, "diffusers", tmp_path / "folder")
    weights, settings = (
        folder / "vae" / name for name in ("diffusion_pytorch_model.safetensors", "config.json")
    )
    if changes is None:
        tensors = load_file(weights)
        del tensors["decoder.conv_out.bias"]
        save_file(tensors, weights)
    else:
        settings.write_text(json.dumps({**json.loads(settings.read_text()), **changes}))
    with pytest.raises(DataError, match=told):
        plan(open_checkpoint(folder), "stability", tmp_path / "x.safetensors").facts()


def test_an_autoencoder_with_tensors_of_no_known_name_is_refused(tmp_path):
    first = write_stability(tmp_path / "m.safetensors", network(PLAIN), more=vae_inside())
    folder = converted(first, "diffusers", tmp_path / "folder")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "loss.logvar": torch.zeros(1)}, file)
    with pytest.raises(DataError, match=r'no known name: \["loss.logvar"\]'):
        converted(folder, "stability", tmp_path / "x.safetensors")


def test_text_encoders_inside_a_file_stay_there_when_it_is_written_again(tmp_path):
    more = {"text_encoders.clip_l.transformer.text_model.x.weight": torch.ones(2)}
    source = write_stability(tmp_path / "m.safetensors", network(PLAIN), more=more)
    made = plan(open_checkpoint(source), "stability", tmp_path / "x.safetensors")
    assert made.parts == ["clip_l"]
    assert same(load_file(convert(made)), load_file(source))


def test_an_unprefixed_file_gains_the_prefix_that_programs_look_for(tmp_path):
    source = write_stability(tmp_path / "m.safetensors", network(PLAIN), prefix="")
    target = converted(source, "stability", tmp_path / "x.safetensors")
    assert all(name.startswith(PREFIX) for name in load_file(target))
    assert open_checkpoint(target).config == PLAIN


def test_progress_ends_with_the_number_of_tensors(tmp_path):
    source = open_checkpoint(write_diffusers(tmp_path / "t", network(SMALL)))
    seen = []
    made = plan(source, "diffusers", tmp_path / "folder")
    convert(made, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (made.num_tensors, made.num_tensors)
    assert seen == sorted(seen)
