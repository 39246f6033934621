"""Damaged and made-up files: never a wrong load, never a traceback at the command line."""

import contextlib
import io
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rectiflow.cli.main import main
from rectiflow.errors import DataError
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.interop.conversion import convert, plan
from tests.interop.networks import (
    NORMED,
    SMALL,
    foreign_weights,
    network,
    same,
    write_diffusers,
    write_stability,
)

FUZZ = settings(max_examples=30, deadline=None)
LAYOUTS = st.sampled_from(["stability", "diffusers"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the same small network as a file of others and as a file of ours."""
    folder = tmp_path_factory.mktemp("damage")
    source = write_stability(folder / "foreign.safetensors", network(SMALL))
    made = convert(plan(open_checkpoint(source), "diffusers", folder / "made"))
    weights = made / "transformer" / "diffusion_pytorch_model.safetensors"
    (folder / "ours.safetensors").write_bytes(weights.read_bytes())
    return folder


def refused(path):
    """What the program says about a file that it must not take: one line, and nothing written."""
    target = path.with_name("target")
    with contextlib.redirect_stderr(io.StringIO()) as heard:
        code = main(["convert", str(path), str(target), "--to", "diffusers"])
    told = heard.getvalue().splitlines()
    assert code == 2
    mistakes = [line for line in told if not line.startswith("writing ")]
    assert len(mistakes) == 1, told
    assert mistakes[0].startswith("rectiflow: ")
    assert not target.exists()
    return mistakes[0]


def loads_right_or_is_refused(path):
    """A header that still reads must mean the network that was written."""
    try:
        loaded = open_checkpoint(path).load_network()
    except DataError:
        refused(path)
    else:
        assert same(loaded.state_dict(), network(SMALL).state_dict())


def damaged(place, name, content):
    path = place / f"damaged-{name}"
    path.write_bytes(content)
    return path


@FUZZ
@given(data=st.data())
def test_a_cut_file_is_refused_by_name(place, data):
    content = (place / "foreign.safetensors").read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    path = damaged(place, "cut", content[:cut])
    assert str(path) in refused(path)


@FUZZ
@given(data=st.data())
def test_flipped_bits_of_a_header_never_load_another_network(place, data):
    content = bytearray((place / "foreign.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for position in data.draw(st.sets(st.integers(0, 8 * header - 1), min_size=1, max_size=3)):
        content[position // 8] ^= 1 << position % 8
    loads_right_or_is_refused(damaged(place, "header", content))


@FUZZ
@given(data=st.data())
def test_any_flipped_bit_of_a_file_of_ours_is_refused_by_name(place, data):
    content = bytearray((place / "ours.safetensors").read_bytes())
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    content[position // 8] ^= 1 << position % 8
    path = damaged(place, "ours", content)
    assert str(path) in refused(path)


SMALL_SHAPES = st.lists(st.integers(0, 5), max_size=4)
DTYPES = st.sampled_from([torch.int64, torch.int8, torch.uint8, torch.bool, torch.int32])


@FUZZ
@given(layout=LAYOUTS, data=st.data())
def test_wrong_tensors_are_refused_whatever_they_are(place, layout, data):
    weights = foreign_weights(network(SMALL), layout)
    name = data.draw(st.sampled_from(sorted(weights)))
    kind = data.draw(st.sampled_from(["missing", "extra", "shape", "type", "nan", "renamed"]))
    value = weights[name]
    match kind:
        case "missing":
            del weights[name]
        case "extra":
            weights[f"{name}.{data.draw(st.sampled_from(['lora', 'weight', '0']))}"] = torch.ones(1)
        case "shape":
            shape = data.draw(SMALL_SHAPES.filter(lambda s: tuple(s) != tuple(value.shape)))
            weights[name] = torch.ones(shape)
        case "type":
            weights[name] = torch.ones(value.shape).to(data.draw(DTYPES))
        case "nan":
            value.view(-1)[data.draw(st.integers(0, value.numel() - 1))] = torch.nan
        case "renamed":
            weights[name.replace("0", "7") if "0" in name else f"x{name}"] = weights.pop(name)
    path = place / f"{kind}.safetensors"
    save_file(weights, path)
    assert str(path) in refused(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@FUZZ
@given(data=st.data())
def test_settings_of_diffusers_never_change_what_the_weights_are(place, data):
    folder = place / "settings"
    if not folder.exists():
        write_diffusers(folder, network(SMALL))
    file = folder / "config.json"
    settings_ = json.loads(file.read_text())
    name = data.draw(st.sampled_from(sorted(settings_)))
    kept = file.read_text()
    try:
        file.write_text(json.dumps({**settings_, name: data.draw(JSON)}))
        loaded = open_checkpoint(folder).load_network()
    except ValueError:  # DataError is one
        refused(folder)
    else:
        assert same(loaded.state_dict(), network(SMALL).state_dict())
    finally:
        file.write_text(kept)


@FUZZ
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_json_and_any_bytes_in_place_of_an_index_or_settings_are_refused(place, content):
    folder = place / "index"
    (folder / "transformer").mkdir(parents=True, exist_ok=True)
    settings_, index = (
        folder / "transformer" / name
        for name in ("config.json", "diffusion_pytorch_model.safetensors.index.json")
    )
    settings_.write_text("{}")
    index.write_bytes(content)
    refused(folder)
    settings_.write_bytes(content)
    refused(folder)


def test_a_header_may_not_name_more_blocks_than_it_has_tensors(tmp_path):
    weights = foreign_weights(network(SMALL), "stability")
    weights["joint_blocks.999999999.x_block.attn.qkv.bias"] = torch.zeros(12)
    save_file(weights, tmp_path / "m.safetensors")
    assert "unknown joint_blocks.999999999" in refused(tmp_path / "m.safetensors")


def test_brackets_without_end_and_an_empty_index_are_refused(tmp_path):
    folder = tmp_path / "m" / "transformer"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    assert "must map tensors to files" in refused(tmp_path / "m")
    index.write_text("[" * 200_000)
    assert f"{index} is damaged" in refused(tmp_path / "m")
    file = tmp_path / "facts.safetensors"
    write_stability(file, network(SMALL), metadata={"rectiflow": "[" * 100_000})
    assert f"{file} is damaged" in refused(file)


@pytest.mark.parametrize("changes", [{}, {"q.scale_weight": torch.ones(3)}])
def test_scales_that_fit_no_weight_and_names_that_come_twice_are_refused(tmp_path, changes):
    at = "text_encoders.clip_l."
    more = {f"{at}transformer.q.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}
    more |= {f"{at}transformer.{name}": value for name, value in changes.items()}
    if not changes:
        more[f"{at}q.weight"] = torch.ones(2, 2)
    file = write_stability(tmp_path / "m.safetensors", network(SMALL), more=more)
    told = refused(file)
    assert "needs one scale" in told if changes else "holds q.weight twice" in told


def test_a_good_file_is_not_refused(tmp_path):
    path = write_stability(tmp_path / "m.safetensors", network(NORMED))
    assert main(["convert", str(path), str(tmp_path / "x"), "--to", "diffusers"]) == 0
    assert same(
        open_checkpoint(tmp_path / "x").load_network().state_dict(), network(NORMED).state_dict()
    )
