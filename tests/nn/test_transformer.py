"""Blocks and levels against their formulas, spelt out."""

import pytest
import torch
from torch.nn.functional import gelu, group_norm, layer_norm, silu

from rectiflow.conditioning import Conditioning
from rectiflow.nn.cross_dit import CrossDiT, CrossDiTConfig
from rectiflow.nn.dit import DiT, DiTConfig
from rectiflow.nn.embeddings import patchify, position_table, time_features, unpatchify
from rectiflow.nn.transformer import Block
from rectiflow.nn.uvit import ResidualBlock, UViT, UViTConfig

SHAPE = {
    "depth": 2,
    "num_heads": 2,
    "head_width": 8,
    "patch_size": 2,
    "latent_channels": 3,
    "context_width": 5,
    "pooled_width": 4,
    "base_side": 2,
    "table_side": 4,
}


DRAWS = torch.Generator().manual_seed(7)


def normal(*shape):
    return torch.randn(shape, generator=DRAWS, dtype=torch.float64)


def fill(network):
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.double()


def rms(x, scale):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale


def attend(q, k, v, scale, head_width=8):
    """Heads one by one; queries are scaled by the first row of `scale`, keys by the second."""
    out = []
    for head in range(q.shape[-1] // head_width):
        part = slice(head * head_width, (head + 1) * head_width)
        one, other = rms(q[..., part], scale[0]), rms(k[..., part], scale[1])
        share = (one @ other.transpose(1, 2) / head_width**0.5).softmax(-1)
        out.append(share @ v[..., part])
    return torch.cat(out, dim=-1)


def block_by_formula(block, x, activated, context=None):
    s1, c1, g1, s2, c2, g2 = block.modulation.project(activated)[:, None].chunk(6, dim=-1)
    normed = layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + c1) + s1
    q, k, v = block.attention.qkv(normed).chunk(3, dim=-1)
    x = x + g1 * block.attention.out(attend(q, k, v, block.attention.qk_norm.scale))
    if context is not None:
        cross = block.cross
        k, v = cross.kv(context).chunk(2, dim=-1)
        x = x + cross.out(attend(cross.q(x), k, v, cross.qk_norm.scale))
    normed = layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + c2) + s2
    return x + g2 * block.project(gelu(block.expand(normed), approximate="tanh"))


@pytest.mark.parametrize("has_cross", [False, True])
def test_a_block_is_its_formula(has_cross):
    block = fill(Block(16, 8, qk_norm=True, has_cross=has_cross))
    x, activated = normal(2, 6, 16), normal(2, 16)
    context = normal(2, 5, 16) if has_cross else None
    torch.testing.assert_close(
        block(x, activated, context), block_by_formula(block, x, activated, context)
    )


@pytest.mark.parametrize("kind", [DiT, CrossDiT])
def test_a_network_is_its_embeddings_blocks_and_end(kind):
    config = {DiT: DiTConfig, CrossDiT: CrossDiTConfig}[kind](**SHAPE)
    network = fill(kind(config))
    x, t = normal(2, 3, 4, 8), torch.tensor([0.2, 0.9])
    cond = Conditioning(normal(2, 5, 5), normal(2, 4), (3, 2))

    def perceptron(embedding, vector):
        return embedding.project(silu(embedding.expand(vector)))

    vector = network.modulation_vector
    activated = perceptron(vector.time_embedding, time_features(t).double())
    activated = silu(activated + perceptron(vector.pooled_embedding, cond.pooled))
    image = network.patch_embedding(patchify(x, 2))
    image = image + position_table(16, 2, 4, 4)[1:3].flatten(0, 1)
    context = network.context_embedding(cond.context)
    tokens = torch.cat([context, image], dim=1) if kind is DiT else image
    for block in network.blocks:
        tokens = block_by_formula(block, tokens, activated, None if kind is DiT else context)
    shift, scale = network.final.modulation.project(activated)[:, None].chunk(2, dim=-1)
    tokens = layer_norm(tokens[:, -8:], (16,), eps=1e-6) * (1 + scale) + shift
    expected = unpatchify(network.final.project(tokens), 2, 4, 8)
    torch.testing.assert_close(network(x, t, cond), expected, rtol=1e-5, atol=1e-5)


def test_a_residual_block_is_its_formula():
    block = fill(ResidualBlock(8, 4, 6, groups=2))
    x, activated = normal(2, 8, 5, 5), normal(2, 6)
    shift, scale = block.modulation(activated)[:, :, None, None].chunk(2, dim=1)
    hidden = block.convolve(silu(group_norm(x, 2, block.norm.weight, block.norm.bias)))
    normed = group_norm(hidden, 2, block.steered_norm.weight, block.steered_norm.bias)
    hidden = block.project(silu(normed * (1 + scale) + shift))
    torch.testing.assert_close(block(x, activated), block.shortcut(x) + hidden)


def test_the_way_up_sees_the_way_down_mirrored_and_the_core_all_text_and_positions():
    config = UViTConfig(
        channels=(4, 8),
        num_resnets=2,
        depth=1,
        num_heads=2,
        head_width=8,
        latent_channels=3,
        context_width=5,
        pooled_width=4,
        base_side=2,
        table_side=4,
        norm_groups=2,
    )
    network = fill(UViT(config))
    down, up, core = [], [], []
    for level in network.down:
        for resnet in level.resnets:
            resnet.register_forward_hook(lambda _, given, out: down.append(out))
    for level in network.up:
        for resnet in level.resnets:
            resnet.register_forward_hook(lambda _, given, out: up.append(given[0]))
    network.blocks[0].register_forward_hook(lambda _, given, out: core.extend((given[0], out)))
    shrunk, enlarged = [], []
    network.down[-1].register_forward_hook(lambda _, given, out: shrunk.append(out[0]))
    network.up[0].register_forward_hook(lambda _, given, out: enlarged.append(given[0]))
    x, t = normal(2, 3, 8, 8), torch.tensor([0.2, 0.9])
    cond = Conditioning(normal(2, 5, 5), normal(2, 4), (3, 2))
    network(x, t, cond)
    for before, seen in zip(reversed(down), up, strict=True):
        assert seen[:, before.shape[1] :].equal(before)
    texts, pixels = core[0].split([5, 4], dim=1)
    assert texts.equal(network.context_embedding(cond.context))
    placed = shrunk[0].flatten(2).transpose(1, 2) + position_table(16, 2, 2, 2).flatten(0, 1)
    torch.testing.assert_close(pixels, placed)
    assert enlarged[0].equal(core[1][:, 5:].transpose(1, 2).reshape(2, 16, 2, 2))
