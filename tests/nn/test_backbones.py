"""What holds for every kind of network, and the costs of each against what is counted."""

import dataclasses
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rectiflow.conditioning import Conditioning
from rectiflow.flow.formulations import formulation
from rectiflow.nn.backbones import (
    BACKBONES,
    Interface,
    backbone_of,
    network_config,
    new_network,
)
from rectiflow.nn.counting import layer_macs_of, on_meta, parameters_of, products_of
from rectiflow.nn.mmdit import MMDiT
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.settings import (
    KINDS,
    CrossDiTSettings,
    DiTSettings,
    MMDiTSettings,
    PixArtSettings,
    UNetSettings,
    UViTSettings,
)
from rectiflow.training.objectives.flow import FlowObjective

INTERFACE = Interface(latent_channels=4, context_width=64, pooled_width=5, latent_side=8)

SETTINGS = {
    "mmdit": MMDiTSettings(depth=1),
    "mmdit3": MMDiTSettings(depth=2, num_weight_sets=3),
    "dit": DiTSettings(depth=2, num_heads=1),
    "crossdit": CrossDiTSettings(depth=2, num_heads=1),
    "uvit": UViTSettings(channels=(32,), num_resnets=1, depth=1, norm_groups=8),
    "uvit of two levels": UViTSettings(
        channels=(16, 32), num_resnets=2, depth=1, num_heads=2, qk_norm=False, norm_groups=8
    ),
    "unet": UNetSettings(channels=(32, 64), depths=(0, 2), num_resnets=1, head_width=32),
    "unet of family if": UNetSettings(
        family="if", channels=(32, 32), depths=(1, 0), num_resnets=1, head_width=16
    ),
    "pixart": PixArtSettings(depth=2, num_heads=2, head_width=16),
}
every_kind = pytest.mark.parametrize("name", SETTINGS)


def config_of(name):
    return network_config(SETTINGS[name], INTERFACE)


def awake(name):
    """A network all of whose weights have a say."""
    network, generator = new_network(config_of(name)), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 0.1 if parameter.ndim > 1 else 0.3
        torch.nn.init.normal_(parameter, std=spread, generator=generator)
    return network


def inputs(batch=3, height=8, width=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, height, width, generator=generator)
    context = torch.randn(batch, 5, 64, generator=generator)
    pooled = torch.randn(batch, 5, generator=generator)
    return x, torch.linspace(0.1, 0.9, batch), Conditioning(context, pooled, (3, 2))


def cond_on_meta():
    cond = inputs(1)[2]
    return Conditioning(cond.context.to("meta"), cond.pooled.to("meta"), cond.segments)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_every_kind_of_a_recipe_has_a_network():
    assert tuple(BACKBONES) == KINDS
    assert {settings.kind for settings in SETTINGS.values()} == set(KINDS)


@every_kind
def test_costs_are_those_of_the_network_and_of_torchs_counter(name):
    config = config_of(name)
    backbone = backbone_of(config)
    assert backbone.kind == SETTINGS[name].kind
    assert backbone.num_parameters(config) == parameters_of(backbone.build(config))
    network = on_meta(partial(backbone.build, config))
    forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with both:
        with forward:
            velocity = network(*(each.to("meta") for each in inputs(1, 8, 16)[:2]), cond_on_meta())
        velocity.backward(torch.empty_like(velocity))
    told = backbone.products(config, 8, 16, (3, 2))
    assert told.forward_flops == backbone.forward_flops(config, 8, 16, (3, 2))
    assert told.forward_flops == forward.get_total_flops()
    assert told.training_flops == both.get_total_flops()
    assert told == products_of(network, 8, 16, (3, 2))


@pytest.mark.parametrize("name", ["unet", "unet of family if", "pixart"])
def test_the_papers_gmacs_are_those_of_the_layers(name):
    """Counted by hooks on layers; our own networks call some of their layers by their weights."""
    config = config_of(name)
    backbone = backbone_of(config)
    network = on_meta(partial(backbone.build, config))
    told = backbone.products(config, 8, 16, (3, 2))
    assert told.layers == layer_macs_of(network, 8, 16, (3, 2))


def test_training_flops_of_the_papers_largest_are_those_that_torch_counts():
    config, side = RELEASES["mmdit-d38"], 32
    counted = products_of(on_meta(partial(MMDiT, config)), side, side, (77, 77))
    assert backbone_of(config).products(config, side, side, (77, 77)) == counted


@every_kind
def test_the_first_velocity_is_zero_and_the_first_weights_follow_the_generator(name):
    networks = [new_network(config_of(name)) for _ in range(3)]
    for number, network in enumerate(networks):
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, 5.0 + number)  # nothing of it may stay
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        network.reset_parameters(torch.Generator().manual_seed(seed))
    assert not networks[0](*inputs()).any()
    first, second, third = (dict(network.named_parameters()) for network in networks)
    for key, weight in first.items():
        assert second[key].equal(weight), key
        is_drawn = weight.unique().numel() > 1
        assert not is_drawn or not third[key].equal(weight), key


@every_kind
def test_text_time_and_picture_matter_and_the_pooled_text_where_it_says_so(name):
    network = awake(name)
    x, t, cond = inputs()
    base = network(x, t, cond)
    assert base.shape == x.shape
    with_pooled = dataclasses.replace(cond, pooled=cond.pooled.flip(0))
    assert (relative(network(x, t, with_pooled), base) > 1e-3) == network.config.takes_pooled
    shuffled = dataclasses.replace(cond, context=cond.context[[1, 2, 0]])
    assert relative(network(x, t, shuffled), base) > 1e-3
    assert relative(network(x, t + 0.02, cond), base) > 1e-4
    assert relative(network(x.flip(-1), t, cond).flip(-1), base) > 0.01


@every_kind
@pytest.mark.parametrize(("height", "width"), [(8, 16), (12, 4)])
def test_a_sample_depends_on_no_other_of_its_batch_whatever_the_sides(name, height, width):
    network = awake(name)
    x, t, cond = inputs(3, height, width)
    together = network(x, t, cond)
    alone = network(x[1:2], t[1:2], cond.select([1]))
    assert relative(together[1:2], alone) < 1e-5


@every_kind
def test_sides_that_do_not_fit_are_refused(name):
    network = awake(name)
    multiple, most = network.config.latent_multiple, network.config.max_latent_side
    assert network.config.base_latent_side == 8
    with pytest.raises(ValueError, match=rf"sides must be multiples of .*{multiple}, got 8x9"):
        network(*inputs(1, 8, 9))
    if most is not None:
        assert most == 16
        with pytest.raises(ValueError, match="pictures may have"):
            network(*inputs(1, 8, most + multiple))


@every_kind
def test_autocast_changes_no_more_than_bf16_rounding_and_every_weight_learns(name):
    network = awake(name)
    x, t, cond = inputs()
    exact = network(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = network(x, t, cond)
    assert velocity.dtype == torch.float32
    assert 1e-5 < relative(velocity, exact) < 0.03
    velocity.square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@every_kind
def test_weights_stored_in_bf16_run_without_autocast(name):
    x, t, cond = inputs()
    velocity = awake(name).bfloat16()(x, t, cond)
    assert velocity.dtype == torch.float32
    assert relative(velocity, awake(name)(x, t, cond)) < 0.06


@every_kind
def test_a_few_steps_learn_which_text_goes_with_which_latent(name):
    network = new_network(config_of(name))
    network.reset_parameters(torch.Generator().manual_seed(0))
    flow = formulation("rf")
    x, _, cond = inputs(2)
    data = torch.cat([x.new_full((1, 4, 8, 8), 1.0), x.new_full((1, 4, 8, 8), -1.0)])
    # Almost all noise: only the text tells what the data are.
    t, noise = torch.full((2,), 0.98), x[:1].expand(2, -1, -1, -1)
    point = flow.path.interpolate(data, noise, t)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = flow.loss(network(point, t, cond), data, noise, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dit", {"depth": 1}),
        ("dit", {"num_heads": 2}),
        ("dit", {"num_heads": None}),
        ("dit", {"patch_size": 1}),
        ("dit", {"qk_norm": False}),
        ("dit", {"table_factor": 3}),
        ("crossdit", {"depth": 1}),
        ("crossdit", {"num_heads": 2}),
        ("crossdit", {"patch_size": 1}),
        ("crossdit", {"qk_norm": False}),
        ("crossdit", {"table_factor": 3}),
        ("uvit", {"channels": (64,)}),
        ("uvit", {"num_resnets": 2}),
        ("uvit", {"depth": 2}),
        ("uvit", {"num_heads": 2}),
        ("uvit", {"qk_norm": False}),
        ("uvit", {"norm_groups": 16}),
        ("uvit", {"table_factor": 3}),
        ("unet", {"family": "if", "depths": (0, 1)}),
        ("unet", {"channels": (64, 64)}),
        ("unet", {"depths": (0, 1)}),
        ("unet", {"num_resnets": 2}),
        ("unet", {"head_width": 16}),
        ("unet", {"norm_groups": 16}),
        ("pixart", {"depth": 1}),
        ("pixart", {"num_heads": 1}),
        ("pixart", {"head_width": 32}),
        ("pixart", {"patch_size": 1}),
        ("mmdit", {"patch_size": 1}),
        ("mmdit", {"qk_norm": False}),
        ("mmdit", {"table_factor": 3}),
        ("mmdit", {"num_weight_sets": 3}),
        ("mmdit", {"depth": 2}),
    ],
    ids=str,
)
def test_every_setting_changes_the_network(name, changes):
    settings = dataclasses.replace(SETTINGS[name], **changes)
    before, after = config_of(name), network_config(settings, INTERFACE)
    one, other = new_network(before), new_network(after)
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in (one, other)]
    if shapes[0] == shapes[1]:  # what has no weights of its own changes the output
        filled = awake(name).state_dict()
        one.load_state_dict(filled)
        other.load_state_dict(filled)
        assert relative(other(*inputs()), one(*inputs())) > 1e-4


@pytest.mark.parametrize(
    ("name", "taken", "left"),
    [
        ("dit", {"blocks.0.attention.qkv": 3, "blocks.1.project": 1}, {"patch_embedding"}),
        ("crossdit", {"blocks.0.cross.kv": 2, "blocks.0.cross.q": 1}, {"context_embedding"}),
        ("uvit", {"blocks.0.attention.qkv": 3}, {"first", "last"}),
        (
            "unet",
            {
                "inner.mid_block.attentions.0.transformer_blocks.1.attn2.to_k": 1,
                "inner.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": 2,
            },
            {"inner.conv_in", "inner.time_embedding.linear_1"},
        ),
        (
            "unet of family if",
            {"inner.down_blocks.0.attentions.0.add_k_proj": 1},
            {"inner.mid_block.resnets.0.time_emb_proj", "inner.add_embedding.pool.q_proj"},
        ),
        (
            "pixart",
            {
                "inner.transformer_blocks.0.attn1.to_q": 1,
                "inner.transformer_blocks.0.ff.net.0.proj": 1,
            },
            {"inner.adaln_single.linear", "inner.caption_projection.linear_1"},
        ),
    ],
)
def test_muon_takes_matrices_of_blocks_and_no_kernel_norm_or_modulation(name, taken, left):
    network = new_network(config_of(name))
    matrices = FlowObjective(network, formulation("rf"), 0.0).matrices()
    parameters = dict(network.named_parameters())
    for key, num in taken.items():
        assert matrices[f"{key}.weight"] == num, key
    for key in left:
        assert f"{key}.weight" in parameters.keys() - matrices.keys(), key
    linear = {f"{k}.weight" for k, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
    for key, num in matrices.items():
        assert key in linear, key
        assert "modulation" not in key
        assert len(parameters[key]) % num == 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dit", {"depth": 0}, "depth must be >= 1, got 0"),
        ("dit", {"num_heads": 1, "head_width": 6}, "the width must be a multiple of 4, got 6"),
        ("crossdit", {"table_side": 1}, "table_side must be at least base_side, got 1 < 4"),
        ("uvit", {"depth": 0}, "depth must be >= 1, got 0"),
        ("uvit", {"channels": (33,)}, r"channels must be multiples of norm_groups 8, got \[33\]"),
        ("uvit", {"channels": ()}, r"channels must be multiples of norm_groups 8, got \[\]"),
        ("uvit", {"head_width": 6}, "the width must be a multiple of 4, got 6"),
        ("uvit", {"table_side": 1}, "table_side must be at least base_side, got 1 < 4"),
        ("unet", {"family": "sdxl"}, "family must be one of .*'sd', 'if'.*, got 'sdxl'"),
        ("unet", {"num_resnets": 0}, "num_resnets must be >= 1, got 0"),
        ("unet", {"depths": (1,)}, "depths must name as many levels as channels, not all 0"),
        ("unet", {"depths": (0, 0)}, "depths must name as many levels as channels, not all 0"),
        ("unet", {"depths": (-1, 1)}, "depths must be >= 0"),
        ("unet", {"family": "if"}, "0 or 1 in family 'if', got"),
        ("unet", {"channels": (32, 48)}, "channels must be multiples of norm_groups 32 and head"),
        ("unet", {"base_latent_side": 9}, "base_latent_side must be a multiple of 2"),
        ("unet of family if", {"context_width": 65}, "context_width must be a multiple of 64"),
        ("pixart", {"depth": 0}, "depth must be >= 1, got 0"),
        ("pixart", {"num_heads": 1, "head_width": 6}, "must be a multiple of 4, got 6"),
        ("pixart", {"base_latent_side": 9}, "base_latent_side must be a multiple of patch_size 2"),
    ],
)
def test_shapes_that_cannot_be_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config_of(name), **changes)


def test_a_side_the_network_cannot_take_is_refused_before_it_is_made():
    interface = dataclasses.replace(INTERFACE, latent_side=9)
    with pytest.raises(ValueError, match="a multiple of 2 for this model, got 9"):
        network_config(SETTINGS["uvit"], interface)
    with pytest.raises(ValueError, match="no network has a configuration of type str"):
        backbone_of("mmdit")
