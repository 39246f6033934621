"""The key map, against diffusers' own converter and the key counts of the released files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rectiflow.interop.forms import Form, Piece
from rectiflow.interop.keys import pieces
from rectiflow.interop.shapes import expected_shapes, release_of
from rectiflow.nn.mmdit import MMDiT
from rectiflow.nn.releases import RELEASES
from tests.interop.networks import DUAL, PLAIN, VARIANTS, foreign_weights, network

LAYOUTS = ("stability", "diffusers")


@pytest.mark.parametrize("variant", VARIANTS)
def test_diffusers_own_converter_makes_the_same_of_our_original_layout(variant):
    from diffusers.loaders.single_file_utils import (
        convert_sd3_transformer_checkpoint_to_diffusers as converted,
    )

    model = network(VARIANTS[variant])
    original, expected = (foreign_weights(model, layout) for layout in LAYOUTS)
    found = converted(dict(original))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("release", "originals", "diffusers"),
    [("sd3-medium", 491, 683), ("sd3.5-medium", 665, 909), ("sd3.5-large", 923, 1227)],
)
def test_released_files_have_so_many_tensors_and_numbers(release, originals, diffusers):
    config = RELEASES[release]
    counts = {"sd3-medium": 2084951104, "sd3.5-medium": 2469663936, "sd3.5-large": 8146280768}
    for layout, number in zip(LAYOUTS, (originals, diffusers), strict=True):
        shapes = expected_shapes(pieces(layout, config), config)
        assert len(shapes) == number
        assert sum(torch.Size(shape).numel() for shape in shapes.values()) == counts[release]
    assert release_of(config, Path("model.safetensors")) == release


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tensor_of_ours_has_one_place_and_comes_back_from_it(variant, layout):
    model = network(VARIANTS[variant])
    state, mapped = model.state_dict(), pieces(layout, model.config)
    assert sorted(piece.ours for piece in mapped) == sorted(state)
    theirs = [name for piece in mapped for name in piece.theirs]
    assert len(theirs) == len(set(theirs))
    for piece in mapped:
        parts = piece.to_theirs(state[piece.ours], model.config.patch_size)
        assert torch.equal(piece.to_ours(parts), state[piece.ours]), piece


def test_forms_do_to_numbers_what_their_names_say():
    def made(form, *parts):
        return Piece("x", ("a",) * len(parts), form).to_ours([torch.tensor(p) for p in parts])

    assert made(Form.ROWS, [1, 2], [3]).tolist() == [1, 2, 3]
    assert made(Form.STACK, [1, 2], [3, 4]).tolist() == [[1, 2], [3, 4]]
    assert made(Form.SWAP, [1, 2, 3, 4]).tolist() == [3, 4, 1, 2]
    # One output, two channels, two rows, two columns; ours is row, column, channel.
    conv = [[[[111, 112], [121, 122]], [[211, 212], [221, 222]]]]
    assert made(Form.CONV, conv).tolist() == [[111, 211, 112, 212, 121, 221, 122, 222]]
    table = made(Form.TABLE, [[[0], [1], [2], [3]]])
    assert table[0, 1].item() == 1  # along a row first
    assert table[1, 0].item() == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_weight_sets_have_no_names_in_either_layout(layout):
    config = replace(PLAIN, num_weight_sets=3)
    MMDiT(config)
    with pytest.raises(ValueError, match=r"two sets of weights.*has 3"):
        pieces(layout, config)


def test_the_second_attention_is_named_in_the_dual_blocks_only():
    names = {name for piece in pieces("stability", DUAL) for name in piece.theirs}
    assert {name for name in names if "attn2" in name} == {
        f"joint_blocks.0.x_block.attn2.{rest}"
        for rest in (
            *("qkv.weight", "qkv.bias", "proj.weight", "proj.bias"),
            *("ln_q.weight", "ln_k.weight"),
        )
    }
