"""Counts from the shape alone equal the module's own, and the paper's."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rectiflow.conditioning import Conditioning
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.nn.sizes import forward_flops, num_parameters

TINY = MMDiTConfig(
    depth=3, patch_size=2, context_width=24, pooled_width=20, base_side=4, table_side=10
)


def released(depth: int, qk_norm: bool) -> MMDiTConfig:
    return MMDiTConfig(
        depth=depth,
        context_width=4096,
        pooled_width=2048,
        base_side=64,
        table_side=192,
        qk_norm=qk_norm,
    )


def on_meta(config: MMDiTConfig) -> MMDiT:
    with torch.device("meta"):
        return MMDiT(config)


@pytest.mark.parametrize(
    ("depth", "qk_norm", "count"),
    [(24, False, 2_028_328_000), (38, True, 8_056_627_520)],
    ids=["SD3-Medium", "SD3.5-Large"],
)
def test_parameters_of_the_released_models(depth, qk_norm, count):
    config = released(depth, qk_norm)
    assert num_parameters(config) == count
    model = on_meta(config)
    assert sum(p.numel() for p in model.parameters()) == count
    table = sum(buffer.numel() for buffer in model.buffers())
    assert table == 192 * 192 * config.width


@pytest.mark.parametrize(
    ("depth", "billions"),
    [(15, 0.496), (18, 0.856), (21, 1.359), (22, 1.562), (24, 2.028), (30, 3.962), (38, 8.057)],
)
def test_parameters_of_the_papers_depths(depth, billions):
    assert num_parameters(released(depth, qk_norm=False)) / 1e9 == pytest.approx(billions, abs=6e-4)


# One change per field, so that no field is forgotten by a formula.
VARIANTS = [
    TINY,
    *(
        dataclasses.replace(TINY, **change)
        for change in (
            {"depth": 1},
            {"patch_size": 1},
            {"latent_channels": 4},
            {"context_width": 7},
            {"pooled_width": 9},
            {"qk_norm": False},
            {"head_width": 12},
        )
    ),
]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_parameters_are_those_of_the_module(config):
    assert num_parameters(config) == sum(p.numel() for p in on_meta(config).parameters())


@pytest.mark.parametrize("config", VARIANTS, ids=str)
@pytest.mark.parametrize(("height", "width", "texts"), [(8, 6, 5), (2, 10, 11)])
def test_flops_are_those_that_torch_counts(config, height, width, texts):
    """On the meta device, where scaled_dot_product_attention is counted (on CPU it is not)."""
    model = on_meta(config)
    with torch.device("meta"):
        cond = Conditioning(
            torch.zeros(2, texts, config.context_width),
            torch.zeros(2, config.pooled_width),
            (texts,),
        )
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, config.latent_channels, height, width), torch.zeros(2), cond)
    assert counter.get_total_flops() == 2 * forward_flops(config, height, width, texts)


def test_flops_of_sd3_medium_at_1024_px():
    """8.90 T with 333 text tokens, 8.43 T with 154, counting the last text queries, never used."""
    config = released(24, qk_norm=False)
    for texts, expected in ((333, 8.90e12), (154, 8.43e12)):
        assert forward_flops(config, 128, 128, texts) == pytest.approx(expected, rel=2e-3)
