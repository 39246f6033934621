import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rectiflow.encoders.charsmap import byte_letters
from rectiflow.encoders.released.places import REPOSITORIES, Places, find_text_parts, load_padded
from rectiflow.encoders.tokenizers import BOS, EOS
from rectiflow.errors import DataError
from tests.encoders.released import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny.save_files(tmp_path_factory.mktemp("files"))


def origins(places, without=()):
    return {part.name: part.origin for part in find_text_parts(places, without)}


def test_a_named_folder_goes_before_the_model_s_own_file_and_that_before_its_folder(folder, files):
    inside = {"clip_g": lambda: tiny.state(tiny.clip("clip_g"))}
    found = origins(Places(inside=inside, beside=[folder]))
    assert found["clip_l"] == str(folder / "text_encoder")
    assert found["clip_g"] == "clip_g inside the model's file"
    assert found["t5"] == str(folder / "text_encoder_3")
    found = origins(Places(encoders=[files], inside=inside, beside=[folder]))
    assert found["clip_g"] == str(files / "clip_g.safetensors")
    assert found["t5"] == str(files / "t5xxl_fp16.safetensors")


def test_encoders_inside_the_model_s_file_are_read_from_it(folder):
    twin = tiny.clip("clip_g")
    places = Places(inside={"clip_g": lambda: tiny.state(twin)}, tokenizers=[folder])
    part = find_text_parts(places, without=["clip_l", "t5"])[0]
    loaded = part.load(torch.float32)
    assert torch.equal(loaded.text_projection.weight, twin.text_projection.weight)


def test_of_several_t5_files_the_most_accurate_is_taken(folder, tmp_path):
    names = ["t5xxl_fp8_e4m3fn", "t5xxl_fp8_e4m3fn_scaled", "t5xxl_fp16", "t5xxl_bf16", "t5xxl"]
    for name in names:
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
        places = Places(encoders=[tmp_path], tokenizers=[folder])
        found = origins(places, without=["clip_l", "clip_g"])
        assert found["t5"] == str(tmp_path / f"{name}.safetensors")


def test_a_copy_of_a_public_repository_is_found_under_its_name(folder, tmp_path):
    copy = tmp_path / "clip-vit-large-patch14"
    shutil.copytree(folder / "tokenizer", copy)
    state = tiny.state(tiny.clip("clip_l"))
    state["text_projection.weight"] = torch.full((64, 64), 7.0)  # CLIP's own, no part of SD3
    state["vision_model.post_layernorm.weight"] = torch.ones(3)
    half = len(state) // 2
    for number, keys in enumerate((list(state)[:half], list(state)[half:]), start=1):
        shard = copy / f"model-{number:05d}-of-00002.safetensors"
        save_file({key: state[key] for key in keys}, shard)
    part = find_text_parts(Places(encoders=[tmp_path]), without=["clip_g", "t5"])[0]
    assert part.origin == str(copy)
    assert torch.equal(part.load(torch.float32).text_projection.weight, torch.eye(64))


def test_tokenizers_pad_as_sd3_does_whatever_their_files_say(folder, tmp_path):
    # The public tokenizer of bigG pads with the end of text; both CLIPs share a vocabulary.
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    places = Places(encoders=[folder], tokenizers=[tmp_path])
    clip_l, clip_g = find_text_parts(places, without=["t5"])
    row = {"padding": "max_length", "max_length": tiny.CLIP_TOKENS}
    ids_l, ids_g = (part.tokenizer("red", **row).input_ids for part in (clip_l, clip_g))
    end = clip_l.tokenizer.eos_token_id
    assert ids_l[:2] == ids_g[:2]
    assert ids_l[2:] == [end] * (tiny.CLIP_TOKENS - 2)
    assert ids_g[2:] == [end, *[0] * (tiny.CLIP_TOKENS - 3)]
    t5 = load_padded("t5", folder / "tokenizer_3")
    assert t5("red", **row).input_ids[1:] == [t5.eos_token_id, *[0] * (tiny.CLIP_TOKENS - 2)]


def test_a_tokenizer_in_the_files_of_the_release_is_read(tmp_path):
    # vocab.json and merges.txt instead of tokenizer.json
    letters = sorted(byte_letters())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>", BOS, EOS]
    marks = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": "!"}
    files = {
        "vocab.json": json.dumps({word: index for index, word in enumerate(words)}),
        "merges.txt": "#version: 0.2\nr e\nre d</w>\n",
        "special_tokens_map.json": json.dumps(marks),
        "tokenizer_config.json": json.dumps(
            {**marks, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
        ),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    tokenizer = load_padded("clip_g", tmp_path)
    ids = tokenizer("Red to", padding="max_length", max_length=7).input_ids
    assert [words[i] for i in ids] == [BOS, "red</w>", "t", "o</w>", EOS, "!", "!"]
    assert tokenizer.model_max_length == 77


def test_a_sentencepiece_file_needs_its_package(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    shutil.copytree(folder / "tokenizer_3", tmp_path / "t5")
    (tmp_path / "t5" / "spiece.model").touch()
    load_padded("t5", tmp_path / "t5")  # a tokenizer.json beside it will do
    (tmp_path / "t5" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"spiece\.model alone, .* the package sentencepiece"):
        load_padded("t5", tmp_path / "t5")


def test_half_precision_folders_without_another_are_read(folder, tmp_path):
    for model, name in zip(tiny.models(), ("", "_2", "_3"), strict=True):
        twin = type(model)(model.config)
        twin.load_state_dict(model.state_dict())
        twin.bfloat16().save_pretrained(tmp_path / f"text_encoder{name}", variant="fp16")
    part = find_text_parts(Places(encoders=[tmp_path], tokenizers=[folder]))[0]
    loaded = part.load(torch.float32)
    weight = tiny.clip("clip_l").state_dict()["text_model.final_layer_norm.weight"]
    assert torch.equal(
        loaded.state_dict()["text_model.final_layer_norm.weight"], weight.bfloat16().float()
    )


def test_everything_missing_is_told_at_once_with_its_public_repository(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        find_text_parts(Places(beside=[tmp_path]), without=["t5"])
    message = str(error.value)
    for name in ("clip_l", "clip_g"):
        assert f"text encoder {name} (public: {REPOSITORIES[name]})" in message
        assert f"tokenizer of {name} (public: {REPOSITORIES[name]})" in message
    assert "t5" not in message
    assert str(tmp_path) in message
    for option in ("--text-encoders", "--tokenizers", "--download", "--without"):
        assert option in message
    assert find_text_parts(Places(), without=["clip_l", "clip_g", "t5"]) == ()


def test_a_missing_tokenizer_alone_is_told(files):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer of t5 \(public: google/t5-v1_1"):
        find_text_parts(Places(encoders=[files]), without=["clip_l", "clip_g"])
    with pytest.raises(ValueError, match="text encoders are clip_l, clip_g, t5, got t6"):
        find_text_parts(Places(encoders=[files]), without=["t6"])


def test_a_named_folder_of_which_nothing_is_used_is_refused(folder, files, tmp_path):
    for changes, option in (
        ({"encoders": [tmp_path]}, "text-encoders"),
        ({"tokenizers": [tmp_path / "nowhere"]}, "tokenizers"),
        ({"encoders": [files], "tokenizers": [files]}, "tokenizers"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"--{option} .* has no effect"):
            find_text_parts(Places(beside=[folder], **changes))
    find_text_parts(Places(encoders=[files], tokenizers=[folder]))


def test_a_download_fetches_only_what_is_nowhere_else(folder, files, tmp_path):
    asked = []

    def fetch(repository, patterns):
        asked.append((repository, tuple(patterns)))
        return folder / "tokenizer_3"

    places = Places(encoders=[files], fetch=fetch)
    find_text_parts(places, without=["clip_l", "clip_g"])
    assert [repository for repository, _ in asked] == ["google/t5-v1_1-xxl"]
    assert not any("safetensors" in pattern for pattern in asked[0][1])  # a tokenizer only
    asked.clear()
    find_text_parts(Places(encoders=[folder], fetch=fetch))
    assert not asked
    with pytest.raises(FileNotFoundError, match="google/t5-v1_1-xxl holds no safetensors"):
        find_text_parts(Places(tokenizers=[folder], fetch=fetch), without=["clip_l", "clip_g"])
    assert any("safetensors" in pattern for pattern in asked[0][1])


def test_a_damaged_file_is_named_when_it_is_read(folder, tmp_path):
    (tmp_path / "clip_l.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage")
    places = Places(encoders=[tmp_path], tokenizers=[folder])
    part = find_text_parts(places, without=["clip_g", "t5"])[0]
    with pytest.raises(DataError, match=r"clip_l\.safetensors is damaged"):
        part.load(torch.float32)


def test_weights_that_are_not_finite_are_refused_in_files_and_in_folders(folder, files, tmp_path):
    for place in (shutil.copytree(folder, tmp_path / "a"), shutil.copytree(files, tmp_path / "b")):
        places = Places(encoders=[place], tokenizers=[folder])
        part = find_text_parts(places, without=["clip_g", "t5"])[0]
        origin = Path(part.origin)
        file = origin if origin.is_file() else origin / "model.safetensors"
        tensors = load_file(file)
        tensors["text_model.final_layer_norm.bias"][1] = torch.nan
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(DataError, match=r"final_layer_norm.bias holds 1 values .* nan"):
            part.load(torch.float32)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": "abc"}, "cannot be read as CLIPTextModelWithProjection"),
        ({"num_attention_heads": 7}, "cannot be read as CLIPTextModelWithProjection"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised weights"),
        ({"_attn_implementation": "somebody/kernel"}, "another program's attention: 'somebody/k"),
        ({"attn_implementation": "somebody/kernel"}, "another program's attention: 'somebody/k"),
    ],
)
def test_settings_of_a_folder_that_fit_nothing_or_fetch_code_are_refused(
    folder, tmp_path, changes, told
):
    place = shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**settings, **changes}))
    places = Places(encoders=[tmp_path], tokenizers=[folder])
    part = find_text_parts(places, without=["clip_g", "t5"])[0]
    with pytest.raises(DataError, match=told):
        part.load(torch.float32)


@pytest.mark.parametrize("length", ["long", 0])
def test_a_tokenizer_needs_a_length(folder, tmp_path, length):
    place = shutil.copytree(folder / "tokenizer_3", tmp_path / "tokenizer_3")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    settings["model_max_length"] = length
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"no tokenizer of t5|cannot be read"):
        load_padded("t5", place)


def test_t5_files_of_any_name_are_found_after_the_known_ones(folder, tmp_path):
    tiny.save_files(tmp_path, "t5xxl_fp8_e5m2.safetensors")
    places = Places(encoders=[tmp_path], tokenizers=[folder])
    assert origins(places)["t5"] == str(tmp_path / "t5xxl_fp8_e5m2.safetensors")
    shutil.copyfile(tmp_path / "t5xxl_fp8_e5m2.safetensors", tmp_path / "t5xxl_bf16.safetensors")
    assert origins(places)["t5"] == str(tmp_path / "t5xxl_bf16.safetensors")
