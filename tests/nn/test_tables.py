"""Every row of the papers' tables, counted again."""

import dataclasses
import json
from functools import partial

import pytest
import torch

from rectiflow.nn.backbones import BACKBONES
from rectiflow.nn.counting import (
    flops_of,
    layer_macs_of,
    on_meta,
    parameters_of,
    saved_bytes_of,
)
from rectiflow.nn.counts import COUNTED, Counts
from rectiflow.nn.named import SIDES_PX, config_of, cost_of
from rectiflow.nn.pixart import PixArt, PixArtConfig
from rectiflow.nn.sizes import forward_flops, num_parameters
from rectiflow.nn.tables import (
    MMDITS,
    PIXARTS,
    RECIPES,
    TABLES,
    UNETS,
    agreement,
    every_row,
    row_of,
)
from rectiflow.sampling.load import load_encoders, network_config
from rectiflow.training.recipe import load_recipe


@pytest.mark.parametrize("row", [*UNETS, *PIXARTS], ids=lambda row: row.name)
def test_parameters_and_gmacs_are_those_of_the_network_and_of_the_paper(row):
    network = on_meta(partial(BACKBONES[row.kind].build, config_of(row)))
    assert parameters_of(network) == row.num_parameters
    assert layer_macs_of(network, 32, 32, (77,)) == row.layer_macs
    printed = agreement(row.num_parameters / 1e9, row.printed_billions)
    assert printed == ("rounded twice" if row.name == "SDXL-TD4" else "yes")
    assert agreement(row.layer_macs / 1e9, row.printed_gmacs) == "yes"


@pytest.mark.parametrize("row", MMDITS, ids=lambda row: row.name)
def test_sizes_of_every_mmdit_are_those_of_its_closed_form(row):
    config, pixels, texts = config_of(row), 16 * 16, 154
    assert num_parameters(config) == row.num_parameters
    pairs = (config.depth - 1) * (pixels + texts) ** 2 + pixels * (pixels + texts)
    pairs += len(config.dual_attention) * pixels**2
    products = 2 * pairs * config.width  # logits, then their average: no weights
    assert forward_flops(config, 32, 32, texts) == 2 * (row.layer_macs + products)
    assert agreement(row.num_parameters / 1e9, row.printed_billions) in ("yes", "")


def test_the_tables_have_the_rows_of_the_papers():
    assert (len(UNETS), len(PIXARTS)) == (16, 4)
    assert set(TABLES) == {"unet", "pixart", "mmdit"}
    names = [row.name for row in every_row()]
    assert len(names) == len(set(names))
    assert row_of("SDXL-TD4") is UNETS[9]
    assert row_of("SDXL-TD5") is None


def test_the_small_networks_are_those_of_the_recipes():
    encoders = load_encoders({"source": "scenes-tiny", "autoencoder": None, "text": None})
    for row in RECIPES:
        recipe = load_recipe(row.name)
        assert recipe.data.size_px == row.side_px
        model = json.loads(json.dumps(dataclasses.asdict(recipe.model)))
        assert network_config(model, row.side_px, *encoders) == config_of(row)
        assert tuple(encoders[1].segments) == row.segments
        backbone, rows = BACKBONES[row.kind], row.side_px // 8
        assert backbone.num_parameters(config_of(row)) == row.num_parameters
        told = backbone.products(config_of(row), rows, rows, row.segments)
        assert told.layers == row.layer_macs


def test_cost_of_a_release_and_of_a_table_row_tell_flops_and_memory_at_every_side():
    release = cost_of(row_of("sd3.5-medium"))
    assert release["parameters"] == 2_243_171_520
    at = release["pictures"]
    assert list(at) == ["256", "512", "1024"]
    assert at["1024"]["forward_flops"] == forward_flops(
        config_of(row_of("sd3.5-medium")), 128, 128, 154
    )
    assert at["256"]["sampling_bytes"] > 2 * release["parameters"]
    assert at["1024"]["training_bytes"] > at["256"]["training_bytes"] > 20 * release["parameters"]
    small = cost_of(row_of("crossdit-tiny"))
    assert list(small["pictures"]) == ["64"]
    assert small["network"]["num_heads"] == 4


def recounted(row):
    network = on_meta(partial(BACKBONES[row.kind].build, config_of(row)))
    return {
        side: Counts(
            flops_of(network, side // 8, side // 8, row.segments),
            saved_bytes_of(network, side // 8, side // 8, row.segments),
        )
        for side in COUNTED[row.name]
    }


@pytest.mark.parametrize("name", ["unet-tiny", "pixart-tiny", "SD2"])
def test_counts_of_one_picture_are_those_of_the_network(name):
    assert recounted(row_of(name)) == COUNTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_all_counts_of_one_picture_are_those_of_the_network(name):
    assert recounted(row_of(name)) == COUNTED[name]


def attention_flops(row, side_px):
    """The products inside attention, by hand: 4 n (n + 77) width of every block."""
    if row.kind == "pixart":
        config, pixels = config_of(row), (side_px // 16) ** 2
        return config.depth * 4 * pixels * (pixels + 77) * config.width
    widths, depths = row.shape["channels"], row.shape["depths"]
    total = 4 * 78 * 1024 if "family" in row.shape else 0  # IF pools the text by attention
    for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        pixels = (side_px // 8) ** 2 // 4**level
        num_blocks = (2 * row.shape.get("num_resnets", 2) + 1) * depth  # down, up
        if level == len(widths) - 1:
            num_blocks += [depth for depth in depths if depth][-1]  # in the middle
        total += num_blocks * 4 * pixels * (pixels + 77) * width
    return total


@pytest.mark.parametrize("row", [*UNETS, *PIXARTS], ids=lambda row: row.name)
def test_counts_of_one_picture_follow_from_layers_and_attention(row):
    """What layers compute and keep grows with the pixels, evenly; attention keeps no matrix."""
    counts = [COUNTED[row.name][side] for side in SIDES_PX]
    layers = [
        each.forward_flops - attention_flops(row, side)
        for side, each in zip(SIDES_PX, counts, strict=True)
    ]
    assert layers[0] == 2 * row.layer_macs
    assert layers[2] - layers[1] == 4 * (layers[1] - layers[0])
    kept = [each.kept_bytes for each in counts]
    assert kept[2] - kept[1] == 4 * (kept[1] - kept[0])


def test_counts_are_those_of_the_networks_that_diffusers_computes():
    named = {row.name for row in every_row() if row.kind in ("unet", "pixart")}
    assert COUNTED.keys() == named
    assert all(set(COUNTED[row.name]) == {64} for row in RECIPES if row.name in named)


def test_attention_keeps_no_matrix_of_weights():
    shape = {"context_width": 32, "pooled_width": 4, "base_latent_side": 8}
    network = on_meta(partial(PixArt, PixArtConfig(depth=1, num_heads=2, head_width=16, **shape)))
    kept = [saved_bytes_of(network, side, side, (7,)) for side in (8, 16, 32)]
    assert kept[2] - kept[1] == 4 * (kept[1] - kept[0])


def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_weights():
    class Network(torch.nn.Module):
        config = config_of(PIXARTS[0])

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.empty(4, 1, 1, device="meta"))

        def forward(self, x, t, cond):
            scaled = x * self.scale  # keeps x, 4 x 8 x 4 numbers, and a weight
            return scaled * scaled  # keeps its input, once

    assert saved_bytes_of(Network(), 8, 4, (7,)) == 4 * (2 * 4 * 8 * 4)


def test_agreement_is_that_of_the_printed_digits():
    assert agreement(0.8659, "0.87") == "yes"
    assert agreement(0.8644, "0.87") == "no"
    assert agreement(0.8651, "0.86") == "no"
    assert agreement(1.23499, "1.24") == "rounded twice"
    assert agreement(1.2344, "1.24") == "no"
    assert agreement(364.4, "364") == "yes"
    assert agreement(364.6, "364") == "no"
    assert agreement(0.5, "") == ""


def test_layers_are_counted_without_the_products_inside_attention():
    layer = torch.nn.Linear(3, 5, device="meta")

    class Network(torch.nn.Module):
        config = config_of(PIXARTS[0])
        first = torch.nn.Conv2d(4, 6, 3, padding=1, device="meta")

        def forward(self, x, t, cond):
            q = self.first(x).flatten(2)
            return layer(x[0, :3, 0, 0]), q @ q.transpose(1, 2)

        def modules(self):
            return iter((layer, self.first))

    assert layer_macs_of(Network(), 8, 4, (7,)) == 3 * 5 + 8 * 4 * 9 * 4 * 6
