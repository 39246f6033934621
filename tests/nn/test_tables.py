"""Every row of the papers' tables, counted again."""

import dataclasses
import json
from functools import partial

import pytest
import torch

from rectiflow.nn.backbones import BACKBONES
from rectiflow.nn.counting import layer_macs_of, on_meta, parameters_of, saved_bytes_of
from rectiflow.nn.named import config_of, cost_of
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
        if row.kind != "mmdit":  # which calls some of its layers by their weights
            network = on_meta(partial(backbone.build, config_of(row)))
            assert layer_macs_of(network, rows, rows, row.segments) == row.layer_macs


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
