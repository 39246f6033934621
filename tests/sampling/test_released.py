import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from rectiflow.errors import DataError
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.interop.conversion import convert, plan
from rectiflow.sampling.bundle import packaged_bundles
from rectiflow.sampling.drawing import drawing_of
from rectiflow.sampling.load import load as load_own
from rectiflow.sampling.released import (
    OPTIONS,
    ReleasedModel,
    ReleasedSettings,
    find_released,
    fingerprint,
    load_released,
)
from tests.encoders.released import tiny
from tests.encoders.released.ldm import ldm_tensors
from tests.interop.networks import write_diffusers, write_stability
from tests.nn.test_mmdit_against_diffusers import theirs
from tests.sampling import tiny_release

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SIZE = (48, 32)  # width, height
DRAWN = {"size": SIZE, "num_steps": 3, "solver": "euler", "guidance_scale": 4.0, "seed": 3}


@pytest.fixture(scope="module")
def net():
    return tiny_release.network()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A single file with everything inside but the tokenizers, which lie beside it."""
    return tiny_release.write_single(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def bare(net, tmp_path_factory):
    """A single file of the network and the autoencoder alone."""
    more = {f"first_stage_model.{name}": value for name, value in ldm_tensors().items()}
    return write_stability(tmp_path_factory.mktemp("bare") / "model.safetensors", net, more=more)


@pytest.fixture(scope="module")
def folder(net, single, tmp_path_factory):
    """A diffusers folder of the same model."""
    root = tiny.save_folder(tmp_path_factory.mktemp("folder"))
    write_diffusers(root / "transformer", net)
    find_released(single).autoencoder[1]().save(root / "vae")
    FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(root / "scheduler")
    return root


@pytest.fixture(scope="module")
def drawn(single):
    return np.asarray(load(single).sample("two red circles", **DRAWN)[0], int)


def load(model, settings=None):
    return load_released(model, settings, precision="fp32")


def difference(images, other):
    return np.abs(np.asarray(images[0], int) - other).max()


def diffusers_picture(net, pipeline, has_t5, t5_tokens, negative=""):
    """The same noise drawn by diffusers' pipeline of the same parts."""
    token_l, token_g, token_t5 = tiny.tokenizers()
    peer = StableDiffusion3Pipeline(
        transformer=theirs(net).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=pipeline.autoencoder.network,
        text_encoder=tiny.clip("clip_l"),
        tokenizer=token_l,
        text_encoder_2=tiny.clip("clip_g"),
        tokenizer_2=token_g,
        text_encoder_3=tiny.t5() if has_t5 else None,
        tokenizer_3=token_t5 if has_t5 else None,
    )
    peer.set_progress_bar_config(disable=True)
    picture = peer(
        "two red circles",
        negative_prompt=negative,
        latents=pipeline.noise(DRAWN["seed"], 0, SIZE)[None],
        width=SIZE[0],
        height=SIZE[1],
        num_inference_steps=DRAWN["num_steps"],
        guidance_scale=DRAWN["guidance_scale"],
        max_sequence_length=t5_tokens,
        output_type="np",
    ).images[0]
    return np.round(picture * 255).astype(int)


@pytest.mark.parametrize("has_t5", [True, False])
def test_a_single_file_draws_the_picture_of_diffusers(net, single, has_t5):
    without = () if has_t5 else ("t5",)
    settings = ReleasedSettings(t5_tokens=24, without=without)
    pipeline = load_released(single, settings, precision="fp32")
    shift = {"shift": 3.0, "grid": "sd3"}
    images = pipeline.sample("two red circles", **DRAWN, **shift, without=without)
    expected = diffusers_picture(net, pipeline, has_t5, 24)
    assert difference(images, expected) <= 1  # a step of rounding
    assert expected.std() > 10  # not one grey
    negative = pipeline.sample("two red circles", **DRAWN, **shift, negative="a blue star")
    if has_t5:
        away = diffusers_picture(net, pipeline, has_t5, 24, "a blue star")
        assert difference(negative, away) <= 1
        assert difference(negative, expected) > 1


def test_every_layout_of_a_model_draws_the_same_picture(single, bare, folder, drawn, tmp_path):
    shift = {"shift": find_released(single).options.shift}
    assert difference(load(folder).sample("two red circles", **DRAWN, **shift), drawn) <= 1
    files = tiny.save_files(tmp_path / "text_encoders")
    settings = ReleasedSettings(text_encoders=tmp_path, tokenizers=folder)
    assert difference(load(bare, settings).sample("two red circles", **DRAWN), drawn) <= 1
    assert find_released(bare, settings).facts()["text_encoders"]["t5"] == str(
        files / "t5xxl_fp16.safetensors"
    )


def test_prompts_are_encoded_before_anything_is_drawn_each_encoder_read_once(single):
    model = find_released(single)
    read = []

    def watched(part):
        def load(dtype):
            read.append(part.name)
            return part.load(dtype)

        return replace(part, load=load)

    pipeline = replace(model, parts=tuple(map(watched, model.parts))).load()
    pipeline.sample(["two red circles", "a blue star"], **DRAWN, batch_size=1, negative="green")
    assert read == ["clip_l", "clip_g", "t5"]


def test_every_setting_of_the_text_changes_the_picture(single, drawn):
    def other(without=(), **changes):
        settings = ReleasedSettings(without=without, **changes)
        return load(single, settings).sample("two red circles", **DRAWN)

    pictures = [
        other(t5_tokens=9),
        other(without=("clip_l",)),
        other(without=("clip_g",)),
        other(without=("t5",)),
        other(without=("t5",), missing_t5="none"),
        other(without=("t5",), missing_t5="zeros-77"),
        other(without=("t5",), t5_tokens=9),
    ]
    arrays = [drawn, *(np.asarray(picture[0], int) for picture in pictures)]
    for i, one in enumerate(arrays):
        assert all(np.abs(one - two).max() > 0 for two in arrays[:i]), i
    kohya = other(without=("t5",), missing_t5="zeros-256")  # diffusers' default length
    assert difference(kohya, arrays[4]) == 0


def test_bf16_halves_the_weights_and_keeps_the_picture_near(single, drawn):
    pipeline = load_released(single, precision="bf16")
    assert {p.dtype for p in pipeline.network.parameters()} == {torch.bfloat16}
    assert pipeline.text.t5_dtype == torch.bfloat16
    picture = pipeline.sample("two red circles", **DRAWN)
    assert 0 < np.abs(np.asarray(picture[0], int) - drawn).mean() < 12


def test_each_release_is_drawn_as_its_reference_does(single):
    reference = {
        "sd3-medium": ("dpmpp_2m", 50, 5.0, 3.0, "sd3", ()),
        "sd3.5-medium": ("dpmpp_2m", 50, 5.0, 3.0, "sd3", (7, 8, 9)),
        "sd3.5-large": ("dpmpp_2m", 40, 4.5, 3.0, "sd3", ()),
        "sd3.5-large-turbo": ("euler", 4, 1.0, 3.0, "sd3", ()),
    }
    found = {
        name: (o.solver, o.num_steps, o.guidance_scale, o.shift, o.grid, o.skip_layers)
        for name, o in OPTIONS.items()
    }
    assert found == reference
    skip = OPTIONS["sd3.5-medium"]
    assert (skip.skip_scale, skip.skip_start, skip.skip_end) == (2.5, 0.01, 0.20)
    assert {o.batch_size for o in OPTIONS.values()} == {1}
    model = find_released(single)
    for name, options in OPTIONS.items():
        assert replace(model, release=name).options == options
    other = model.options  # of no release's shape
    assert (other.solver, other.num_steps, other.guidance_scale) == ("euler", 28, 7.0)


def test_the_scheduler_of_a_folder_sets_the_shift(folder, single):
    assert find_released(folder).options.shift == 2.0
    assert find_released(single).options.shift == 3.0


def test_an_export_of_ours_is_drawn_as_its_recipe_says(single):
    sampling = {"num_steps": 5, "guidance_scale": 2.0, "unconditional": "zeros", "seed": 7}
    recipe = {"sampling": sampling, "objective": {"formulation": "rf"}}
    model = find_released(single)
    opened = replace(model.checkpoint, facts={"recipe": recipe})
    pipeline = replace(model, checkpoint=opened).load()
    assert (pipeline.options.num_steps, pipeline.options.guidance_scale) == (5, 2.0)
    assert (pipeline.options.grid, pipeline.options.shift) == (None, 1.0)
    assert pipeline.unconditional_text == "zeros"
    assert pipeline.formulation.name == "rf"


@pytest.mark.parametrize(
    "recipe",
    [
        {"sampling": 3, "objective": {"formulation": "rf"}},
        {"sampling": {"num_steps": "many"}, "objective": {"formulation": "rf"}},
        {"sampling": {"solver": "none"}, "objective": {"formulation": "rf"}},
        {"sampling": {"unconditional": "none"}, "objective": {"formulation": "rf"}},
        {"sampling": {}, "objective": {"formulation": "nothing"}},
        {"sampling": {}, "objective": {"formulation": ["rf"]}},
        {"sampling": {}, "objective": 3},
        {"sampling": {}},
    ],
)
def test_a_recipe_that_does_not_say_how_to_draw_is_refused(recipe):
    with pytest.raises(DataError, match=r"file\.safetensors is damaged: its recipe does not say"):
        drawing_of(recipe, "file.safetensors")


def test_the_packaged_bundle_draws_the_same_picture_after_its_export(tmp_path):
    bundle = packaged_bundles() / "scenes-tiny"
    convert(plan(open_checkpoint(bundle), "diffusers", tmp_path / "exported"))
    drawing = {"num_steps": 2, "seed": 4}
    exported = load(tmp_path / "exported").sample("two red circles", **drawing)[0]
    expected = load_own(bundle, precision="fp32").sample("two red circles", **drawing)[0]
    assert difference([exported], np.asarray(expected, int)) <= 1
    assert exported.info["t5_tokens"] < 77  # of its own tokenizer


def test_the_t5_part_is_as_long_as_its_tokenizer_says_but_at_most_256(single, tmp_path):
    assert find_released(single).facts()["t5_tokens"] == 256
    shutil.copytree(single.parent, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "tokenizer_3" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 21}))
    model = tmp_path / single.name
    assert find_released(model).facts()["t5_tokens"] == 21
    settings = ReleasedSettings(t5_tokens=33)
    assert find_released(model, settings).facts()["t5_tokens"] == 33


def test_pictures_carry_an_identity_of_the_weights(single, tmp_path):
    pipeline = load_released(single)
    picture = pipeline.sample("a", **{**DRAWN, "num_steps": 1})[0]
    assert picture.info["recipe_hash"] == fingerprint([single])
    assert (picture.info["release"], picture.info["t5_tokens"]) == ("none", 256)
    left_out = load_released(single, ReleasedSettings(without=("t5",), missing_t5="zeros-77"))
    assert (left_out.facts["t5_tokens"], left_out.facts["missing_t5"]) == (77, "zeros-77")
    copy = tmp_path / "copy.safetensors"
    shutil.copy(single, copy)
    assert fingerprint([copy]) == fingerprint([single])
    tensors = load_file(copy)
    tensors[min(tensors)] = tensors[min(tensors)] + 1
    save_file(tensors, copy)
    assert fingerprint([copy]) != fingerprint([single])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missing_t5": "none"}, "no effect unless t5 is left out"),
        ({"missing_t5": "none", "without": ("t5",), "t5_tokens": 9}, "t5_tokens has no effect"),
        ({"missing_t5": "zeros-77", "without": ("t5",), "t5_tokens": 9}, "no effect beside"),
    ],
)
def test_settings_without_effect_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ReleasedSettings(**changes)


def test_missing_parts_are_refused_by_name(bare, net, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"public: openai/clip-vit-large-patch14"):
        find_released(bare)
    with pytest.raises(FileNotFoundError, match=r"no text encoder t5 .*google/t5-v1_1-xxl"):
        find_released(bare, ReleasedSettings(without=("clip_l", "clip_g"), tokenizers=folder))
    alone = write_stability(tmp_path / "alone.safetensors", net)
    with pytest.raises(FileNotFoundError, match=r"holds no autoencoder and there is no vae/"):
        find_released(alone, ReleasedSettings(text_encoders=folder))
    with pytest.raises(FileNotFoundError, match="give --download"):
        find_released("someone/something")
    with pytest.raises(ValueError, match="missing_t5 must be one of"):
        find_released(folder, ReleasedSettings(missing_t5="all", without=("t5",))).facts()


def test_a_model_of_this_package_is_refused_with_the_option_for_it():
    with pytest.raises(ValueError, match="give --run or --bundle"):
        find_released(packaged_bundles() / "scenes-tiny")


def test_what_is_nowhere_is_fetched_only_if_permitted(bare, folder, monkeypatch):
    asked = []

    def fetch(repository, patterns):
        asked.append(repository)
        return folder / "tokenizer_3"

    monkeypatch.setattr("rectiflow.sampling.released.fetch", fetch)
    settings = ReleasedSettings(text_encoders=folder, without=("clip_l", "clip_g"), download=True)
    assert isinstance(find_released(bare, settings), ReleasedModel)
    assert not asked  # the tokenizer lies beside the text encoder
    bare_folder = bare.parent / "encoders"
    shutil.copytree(folder / "text_encoder_3", bare_folder / "text_encoder_3")
    find_released(bare, replace(settings, text_encoders=bare_folder))
    assert asked == ["google/t5-v1_1-xxl"]


def test_a_damaged_part_is_named(single, tmp_path):
    tensors = load_file(single)
    tensors.pop("first_stage_model.decoder.conv_out.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    model = find_released(
        tmp_path / "model.safetensors", ReleasedSettings(tokenizers=single.parent)
    )
    with pytest.raises(DataError, match=r"inside .*model\.safetensors .*decoder\.conv_out\.bias"):
        model.load()
