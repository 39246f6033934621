"""Every row of the papers' tables, counted again."""

from functools import partial

import pytest
import torch

from rectiflow.nn.backbones import BACKBONES
from rectiflow.nn.counting import layer_macs_of, on_meta, parameters_of
from rectiflow.nn.named import config_of
from rectiflow.nn.sizes import forward_flops, num_parameters
from rectiflow.nn.tables import MMDITS, PIXARTS, TABLES, UNETS, agreement


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
    names = [row.name for rows in TABLES.values() for row in rows]
    assert len(names) == len(set(names))


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
