"""UNet and PixArt against diffusers' bare classes, whose arguments are spelt out here."""

import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from rectiflow.conditioning import Conditioning
from rectiflow.nn.discrete_time import discrete_time
from rectiflow.nn.pixart import PixArt, PixArtConfig
from rectiflow.nn.unet import UNet, UNetConfig

WIDTHS = {"latent_channels": 4, "context_width": 64, "pooled_width": 3, "base_latent_side": 8}

SD2 = (
    UNetConfig(channels=(32, 64, 64), depths=(1, 2, 0), head_width=32, norm_groups=8, **WIDTHS),
    {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 2),
        "attention_head_dim": (1, 2, 2),  # numbers of heads
        "use_linear_projection": True,
    },
)
SDXL = (
    UNetConfig(
        channels=(32, 64), depths=(0, 3), num_resnets=1, head_width=16, norm_groups=8, **WIDTHS
    ),
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 3),
        "attention_head_dim": (2, 4),  # numbers of heads
        "use_linear_projection": True,
    },
)
IF = (
    UNetConfig(
        family="if", channels=(32, 64), depths=(1, 0), head_width=16, norm_groups=8, **WIDTHS
    ),
    {
        "block_out_channels": (32, 64),
        "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "layers_per_block": 2,
        "attention_head_dim": 16,  # the width of a head
        "act_fn": "gelu",
        "resnet_time_scale_shift": "scale_shift",
        "cross_attention_norm": "group_norm",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 64,
    },
)


def inputs(height, width):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 4, height, width, generator=generator)
    context = torch.randn(3, 5, 64, generator=generator)
    return x, torch.tensor([0.0, 0.2505, 1.0]), Conditioning(context, torch.zeros(3, 3), (5,))


def fill(network):
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)


@pytest.mark.parametrize(("config", "arguments"), [SD2, SDXL, IF], ids=["SD2", "SDXL", "IF"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 4)])
def test_a_unet_puts_out_what_the_bare_class_does(config, arguments, height, width):
    bare = UNet2DConditionModel(
        in_channels=4, out_channels=4, cross_attention_dim=64, norm_num_groups=8, **arguments
    )
    fill(bare)
    network = UNet(config)
    network.inner.load_state_dict(bare.state_dict())
    x, t, cond = inputs(height, width)
    expected = bare(x, torch.tensor([0.0, 250.5, 1000.0]), cond.context).sample
    torch.testing.assert_close(network(x, t, cond), expected, rtol=0, atol=0)


@pytest.mark.parametrize("num_heads", [2, 4])  # as wide as the text: no perceptron for it
@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 4)])
def test_a_pixart_puts_out_the_first_half_of_what_the_bare_class_does(num_heads, height, width):
    bare = PixArtTransformer2DModel(
        num_attention_heads=num_heads,
        attention_head_dim=16,
        num_layers=2,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16 * num_heads,
        caption_channels=64 if num_heads == 2 else None,
        sample_size=8,
        patch_size=2,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        use_additional_conditions=False,
    )
    fill(bare)
    network = PixArt(PixArtConfig(depth=2, num_heads=num_heads, head_width=16, **WIDTHS))
    network.inner.load_state_dict(bare.state_dict())
    x, t, cond = inputs(height, width)
    expected = bare(x, cond.context, timestep=torch.tensor([0.0, 250.5, 1000.0])).sample
    torch.testing.assert_close(network(x, t, cond), expected[:, :4], rtol=0, atol=0)


def test_weights_put_into_a_pixart_made_on_meta_meet_its_positions():
    config = PixArtConfig(depth=1, num_heads=2, head_width=16, **WIDTHS)
    made = PixArt(config)
    fill(made)
    with torch.device("meta"):
        read = PixArt(config)
    read.load_state_dict(made.state_dict(), assign=True)
    x, t, cond = inputs(8, 8)
    torch.testing.assert_close(read(x, t, cond), made(x, t, cond), rtol=0, atol=0)


def test_discrete_time_is_a_thousand_times_ours_and_is_not_rounded():
    t = torch.tensor([0.0, 0.00025, 1.0], dtype=torch.float64)
    assert discrete_time(t).tolist() == pytest.approx([0.0, 0.25, 1000.0])
    assert discrete_time(t).dtype == torch.float32


def test_a_unet_starts_as_torch_does():
    network = UNet(SD2[0])
    network.reset_parameters(torch.Generator().manual_seed(0))
    weight = network.inner.conv_in.weight
    assert weight.abs().max().item() == pytest.approx((4 * 9) ** -0.5, rel=0.02)
    assert network.inner.mid_block.resnets[0].norm1.weight.eq(1).all()


def test_a_pixart_starts_as_released():
    network = PixArt(
        PixArtConfig(depth=1, num_heads=4, head_width=16, **WIDTHS | {"context_width": 32})
    )
    network.reset_parameters(torch.Generator().manual_seed(0))
    inner = network.inner
    assert not inner.transformer_blocks[0].attn2.to_out[0].weight.any()
    for layer in (inner.adaln_single.linear, inner.caption_projection.linear_1):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert inner.scale_shift_table.std().item() == pytest.approx(1 / 8, rel=0.2)
    xavier = (6 / (64 + 64)) ** 0.5
    assert inner.transformer_blocks[0].attn1.to_q.weight.abs().max().item() == pytest.approx(
        xavier, rel=0.02
    )
