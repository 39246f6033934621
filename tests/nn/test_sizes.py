"""Counts from the shape alone equal the module's own, diffusers', and the paper's."""

import dataclasses
from functools import cache

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rectiflow.conditioning import Conditioning
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.sizes import forward_flops, num_parameters

TINY = MMDiTConfig(
    depth=3, patch_size=2, context_width=24, pooled_width=20, base_side=4, table_side=10
)
RELEASED = {
    "sd3-medium": (2_028_328_000, 192),
    "sd3.5-medium": (2_243_171_520, 384),
    "sd3.5-large": (8_056_627_520, 192),
    "sd3.5-large-turbo": (8_056_627_520, 192),
}


@cache
def on_meta(config: MMDiTConfig) -> MMDiT:
    with torch.device("meta"):
        return MMDiT(config)


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_the_released_models(name):
    count, side = RELEASED[name]
    config = RELEASES[name]
    assert num_parameters(config) == count
    model = on_meta(config)
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(buffer.numel() for buffer in model.buffers()) == side * side * config.width
    assert config.base_side == 64


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["sd3-medium", "sd3.5-medium", "sd3.5-large"])
def test_parameters_are_those_of_diffusers(name):
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    config = RELEASES[name]
    with torch.device("meta"):
        peer = SD3Transformer2DModel(
            num_layers=config.depth,
            num_attention_heads=config.heads,
            caption_projection_dim=config.width,
            pos_embed_max_size=8,
            dual_attention_layers=config.dual_attention,
            qk_norm="rms_norm" if config.qk_norm else None,
        )
    assert sum(p.numel() for p in peer.parameters()) == num_parameters(config)


@pytest.mark.parametrize(
    ("depth", "billions"), [(15, 0.496), (18, 0.856), (21, 1.359), (24, 2.028), (30, 3.962)]
)
def test_parameters_of_the_papers_depths(depth, billions):
    config = RELEASES[f"mmdit-d{depth}"]
    assert config.width == 64 * depth
    assert not config.qk_norm
    assert num_parameters(config) / 1e9 == pytest.approx(billions, abs=6e-4)


def test_the_papers_largest_is_the_large_release_without_qk_norm():
    count = num_parameters(RELEASES["sd3.5-large"])
    assert num_parameters(RELEASES["mmdit-d38"]) == count - 38 * 2 * 2 * 64


def test_three_weight_sets_take_about_half_as_much_again():
    two = RELEASES["mmdit-d24"]
    three = dataclasses.replace(two, num_weight_sets=3)
    assert num_parameters(three) / num_parameters(two) == pytest.approx(1.5, abs=0.02)


# One change per field, so that no field is forgotten by a formula.
VARIANTS = [
    TINY,
    *(
        dataclasses.replace(TINY, **change)
        for change in (
            {"depth": 1},
            {"num_heads": 2},
            {"patch_size": 1},
            {"latent_channels": 4},
            {"context_width": 7},
            {"pooled_width": 9},
            {"qk_norm": False},
            {"head_width": 12},
            {"dual_attention": (0, 2)},
            {"dual_attention": (1,), "qk_norm": False},
            {"num_weight_sets": 3},
            {"num_weight_sets": 3, "dual_attention": (1,), "depth": 2},
        )
    ),
]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_parameters_are_those_of_the_module(config):
    assert num_parameters(config) == sum(p.numel() for p in on_meta(config).parameters())


def counted_flops(config: MMDiTConfig, height: int, width: int, texts: int) -> int:
    """On the meta device, where scaled_dot_product_attention is counted (on CPU it is not)."""
    model = on_meta(config)
    with torch.device("meta"):
        cond = Conditioning(
            torch.zeros(2, texts, config.context_width),
            torch.zeros(2, config.pooled_width),
            (2, texts - 2),
        )
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, config.latent_channels, height, width), torch.zeros(2), cond)
    flops, rest = divmod(counter.get_total_flops(), 2)
    assert not rest
    return flops


@pytest.mark.parametrize("config", VARIANTS, ids=str)
@pytest.mark.parametrize(("height", "width", "texts"), [(8, 6, 5), (2, 10, 11)])
def test_flops_are_those_that_torch_counts(config, height, width, texts):
    counted = counted_flops(config, height, width, texts)
    assert counted == forward_flops(config, height, width, texts)


@pytest.mark.parametrize("name", ["sd3-medium", "sd3.5-medium", "sd3.5-large"])
def test_flops_of_the_released_models_at_1024_px_are_those_that_torch_counts(name):
    config = RELEASES[name]
    assert counted_flops(config, 128, 128, 333) == forward_flops(config, 128, 128, 333)


@pytest.mark.parametrize(
    ("name", "with_333_tokens", "with_154_tokens"),
    [
        ("sd3-medium", 8.90e12, 8.43e12),
        ("sd3.5-medium", 11.25e12, 10.78e12),
        ("sd3.5-large", 31.11e12, 29.59e12),
    ],
)
def test_flops_of_the_released_models_equal_the_known_figures(
    name, with_333_tokens, with_154_tokens
):
    """The expected figures count the last text queries, which are never used."""
    for texts, expected in ((333, with_333_tokens), (154, with_154_tokens)):
        assert forward_flops(RELEASES[name], 128, 128, texts) == pytest.approx(expected, rel=2e-3)
