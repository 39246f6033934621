"""The network is SD3's: with the same weights it gives what diffusers' implementation gives."""

import pytest
import torch

from rectiflow.conditioning import Conditioning
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CONFIG = {"depth": 3, "head_width": 16, "context_width": 24, "pooled_width": 20}


def ours(qk_norm: bool, patch_size: int = 2) -> MMDiT:
    config = MMDiTConfig(
        **CONFIG, qk_norm=qk_norm, patch_size=patch_size, base_side=4, table_side=10
    )
    model, generator = MMDiT(config), torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # biases, gates and norms too must matter
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def theirs(model: MMDiT) -> torch.nn.Module:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    config = model.config
    peer = SD3Transformer2DModel(
        sample_size=20,
        patch_size=config.patch_size,
        in_channels=config.latent_channels,
        num_layers=config.depth,
        attention_head_dim=config.head_width,
        num_attention_heads=config.depth,
        joint_attention_dim=config.context_width,
        caption_projection_dim=config.width,
        pooled_projection_dim=config.pooled_width,
        out_channels=config.latent_channels,
        pos_embed_max_size=config.table_side,
        qk_norm="rms_norm" if config.qk_norm else None,
    )
    peer.load_state_dict(diffusers_weights(model))
    return peer


def diffusers_weights(model: MMDiT) -> dict[str, torch.Tensor]:
    """Our weights under diffusers' names (fused qkv in three, two layers with halves swapped)."""
    patch, channels = model.config.patch_size, model.config.latent_channels
    weights = {"pos_embed.pos_embed": model.positions.table.flatten(0, 1)[None]}

    def linear(name, module, rows=slice(None)):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = module.weight[rows], module.bias[rows]

    def scale_before_shift(name, module):  # ours: shift, scale; theirs: scale, shift
        for key, value in (("weight", module.weight), ("bias", module.bias)):
            weights[f"{name}.{key}"] = torch.cat(value.chunk(2)[::-1])

    linear("context_embedder", model.context_embedding)
    linear("pos_embed.proj", model.patch_embedding)
    square = model.patch_embedding.weight.unflatten(1, (patch, patch, channels))
    weights["pos_embed.proj.weight"] = square.permute(0, 3, 1, 2)
    for name, module in (
        ("timestep_embedder", model.time_embedding),
        ("text_embedder", model.pooled_embedding),
    ):
        linear(f"time_text_embed.{name}.linear_1", module.expand)
        linear(f"time_text_embed.{name}.linear_2", module.project)
    scale_before_shift("norm_out.linear", model.final.modulation.project)
    linear("proj_out", model.final.project)

    names = {
        "image": ("to_q", "to_k", "to_v", "to_out.0", "ff", "norm1", "norm_q", "norm_k"),
        "context": (
            *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
            *("ff_context", "norm1_context", "norm_added_q", "norm_added_k"),
        ),
    }
    for number, block in enumerate(model.blocks):
        root = f"transformer_blocks.{number}"
        for kind, (q, k, v, out, ff, modulation, norm_q, norm_k) in names.items():
            stream, width = getattr(block, kind), model.config.width
            for part, name in enumerate((q, k, v)):
                rows = slice(part * width, (part + 1) * width)
                linear(f"{root}.attn.{name}", stream.qkv, rows)
            if stream.qk_norm is not None:
                weights[f"{root}.attn.{norm_q}.weight"] = stream.qk_norm.scale[0]
                weights[f"{root}.attn.{norm_k}.weight"] = stream.qk_norm.scale[1]
            if stream.is_last:
                scale_before_shift(f"{root}.{modulation}.linear", stream.modulation.project)
                continue
            linear(f"{root}.{modulation}.linear", stream.modulation.project)
            linear(f"{root}.attn.{out}", stream.out)
            linear(f"{root}.{ff}.net.0.proj", stream.expand)
            linear(f"{root}.{ff}.net.2", stream.project)
    return weights


@pytest.mark.parametrize("sides", [(8, 8), (12, 6), (6, 20)], ids=str)
@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_output_equals_diffusers_to_1e_5(qk_norm, sides, batch):
    model = ours(qk_norm)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, *sides, generator=generator)
    t = torch.rand(batch, generator=generator)
    context = torch.randn(batch, 7, 24, generator=generator)
    pooled = torch.randn(batch, 20, generator=generator)
    with torch.no_grad():
        velocity = model(x, t, Conditioning(context, pooled, (3, 4)))
        peer = theirs(model)(
            hidden_states=x,
            timestep=1000 * t,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
    assert (velocity - peer).norm() / peer.norm() < 1e-5
    assert peer.std() > 0.1  # the comparison is not one of zeros


def test_gradients_equal_those_of_diffusers_to_1e_4():
    model = ours(qk_norm=True, patch_size=1)
    peer = theirs(model)
    generator = torch.Generator().manual_seed(2)
    x, t = torch.randn(2, 16, 4, 6, generator=generator), torch.tensor([0.2, 0.9])
    context = torch.randn(2, 7, 24, generator=generator)
    pooled = torch.randn(2, 20, generator=generator)
    model(x, t, Conditioning(context, pooled, (7,))).square().sum().backward()
    peer(x, context, pooled, 1000 * t, return_dict=False)[0].square().sum().backward()
    # Gradients map as weights do.
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    expected = {name: parameter.grad for name, parameter in peer.named_parameters()}
    for name, value in diffusers_weights(model).items():
        if name == "pos_embed.pos_embed":
            continue
        wanted = torch.zeros_like(value) if expected[name] is None else expected[name]
        assert (value - wanted).norm() <= 1e-4 * wanted.norm() + 1e-6, name
