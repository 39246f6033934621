"""The network is SD3's and SD3.5's: same weights, same numbers as diffusers' implementation."""

import pytest
import torch
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

VARIANTS = {
    "SD3 Medium": {"qk_norm": False},
    "SD3.5 Large": {},
    "SD3.5 Medium": {"dual_attention": (0, 1)},
    "dual attention without QK norm, also last": {"qk_norm": False, "dual_attention": (1, 2)},
    "more heads than blocks": {"num_heads": 4},
    "fewer heads than blocks, patches of one pixel": {"num_heads": 1, "patch_size": 1},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def ours(variant: dict, std: float = 0.2) -> MMDiT:
    shape = {
        **{"depth": 3, "head_width": 16, "context_width": 24, "pooled_width": 20},
        **{"base_side": 4, "table_side": 11},
    }
    model, generator = MMDiT(MMDiTConfig(**shape | variant)), torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # biases, gates and norms too must matter
        nn.init.normal_(parameter, std=std, generator=generator)
    return model


def theirs(model: MMDiT) -> nn.Module:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    config = model.config
    peer = SD3Transformer2DModel(
        sample_size=20,
        patch_size=config.patch_size,
        in_channels=config.latent_channels,
        num_layers=config.depth,
        attention_head_dim=config.head_width,
        num_attention_heads=config.heads,
        joint_attention_dim=config.context_width,
        caption_projection_dim=config.width,
        pooled_projection_dim=config.pooled_width,
        out_channels=config.latent_channels,
        pos_embed_max_size=config.table_side,
        dual_attention_layers=config.dual_attention,
        qk_norm="rms_norm" if config.qk_norm else None,
    )
    peer.load_state_dict(diffusers_weights(model))
    return peer


def diffusers_weights(model: MMDiT) -> dict[str, Tensor]:
    """Our weights under diffusers' names (fused qkv in three, two layers with halves swapped)."""
    patch, channels = model.config.patch_size, model.config.latent_channels
    weights = {"pos_embed.pos_embed": model.positions.table.flatten(0, 1)[None]}

    def linear(name, module):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = module.weight, module.bias

    def scale_before_shift(name, module):  # ours: shift, scale; theirs: scale, shift
        for key in ("weight", "bias"):
            weights[f"{name}.{key}"] = torch.cat(getattr(module, key).chunk(2)[::-1])

    def attention(names, qkv, norm, norms):
        for key in ("weight", "bias"):
            for name, part in zip(names, getattr(qkv, key).chunk(3), strict=True):
                weights[f"{name}.{key}"] = part
        if norm is not None:
            for name, scale in zip(norms, norm.scale, strict=True):
                weights[f"{name}.weight"] = scale

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

    for number, block in enumerate(model.blocks):
        root = f"transformer_blocks.{number}"
        for kind, queries, out, added, ff, norm in (
            ("image", "to_{}", "to_out.0", "norm_{}", "ff", "norm1"),
            (
                "context",
                "add_{}_proj",
                "to_add_out",
                "norm_added_{}",
                "ff_context",
                "norm1_context",
            ),
        ):
            stream = getattr(block, kind)
            names = [f"{root}.attn.{queries.format(letter)}" for letter in "qkv"]
            norms = [f"{root}.attn.{added.format(letter)}" for letter in "qk"]
            attention(names, stream.qkv, stream.qk_norm, norms)
            if stream.is_last:
                scale_before_shift(f"{root}.{norm}.linear", stream.modulation.project)
                continue
            linear(f"{root}.{norm}.linear", stream.modulation.project)
            linear(f"{root}.attn.{out}", stream.out)
            linear(f"{root}.{ff}.net.0.proj", stream.expand)
            linear(f"{root}.{ff}.net.2", stream.project)
            if stream.is_dual:
                names = [f"{root}.attn2.to_{letter}" for letter in "qkv"]
                norms = [f"{root}.attn2.norm_{letter}" for letter in "qk"]
                attention(names, stream.qkv2, stream.qk_norm2, norms)
                linear(f"{root}.attn2.to_out.0", stream.out2)
    return weights


def inputs(batch: int, sides: tuple[int, int]) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, *sides, generator=generator)
    t = torch.rand(batch, generator=generator)
    context = torch.randn(batch, 7, 24, generator=generator)
    return x, t, Conditioning(context, torch.randn(batch, 20, generator=generator), (3, 4))


def diffusers_velocity(peer: nn.Module, x: Tensor, t: Tensor, cond: Conditioning, **skip) -> Tensor:
    return peer(
        hidden_states=x,
        timestep=1000 * t,
        encoder_hidden_states=cond.context,
        pooled_projections=cond.pooled,
        return_dict=False,
        **skip,
    )[0]


@pytest.mark.parametrize("sides", [(8, 8), (10, 6), (6, 22)], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@every_variant
def test_output_equals_diffusers_to_1e_5(variant, batch, sides):
    model = ours(variant)
    if model.config.patch_size == 1:
        sides = (sides[0] // 2, sides[1] // 2)
    arguments = inputs(batch, sides)
    with torch.no_grad():
        velocity = model(*arguments)
        peer = diffusers_velocity(theirs(model), *arguments)
    assert (velocity - peer).norm() / peer.norm() < 1e-5
    assert peer.std() > 0.1  # the comparison is not one of zeros


@pytest.mark.parametrize("skipped", [[0], [1, 2]], ids=str)
def test_skipped_blocks_are_those_that_diffusers_skips(skipped):
    model, arguments = ours({"dual_attention": (0, 1)}), inputs(2, (8, 8))
    with torch.no_grad():
        velocity = model(*arguments, skip_blocks=skipped)
        peer = diffusers_velocity(theirs(model), *arguments, skip_layers=skipped)
        whole = model(*arguments)
    assert (velocity - peer).norm() / peer.norm() < 1e-5
    assert (velocity - whole).norm() / whole.norm() > 0.01


@every_variant
def test_gradients_equal_those_of_diffusers_to_1e_4(variant):
    # Weights of 0.2 without QK norm make logits whose gradients are ill-conditioned in float32.
    model, arguments = ours(variant, std=0.1), inputs(3, (4, 6))
    peer = theirs(model)
    model(*arguments).square().sum().backward()
    diffusers_velocity(peer, *arguments).square().sum().backward()
    for parameter in model.parameters():  # gradients map as weights do
        assert parameter.grad is not None
        parameter.data = parameter.grad
    expected = {name: parameter.grad for name, parameter in peer.named_parameters()}
    for name, value in diffusers_weights(model).items():
        if name == "pos_embed.pos_embed":
            continue
        wanted = torch.zeros_like(value) if expected[name] is None else expected[name]
        assert (value - wanted).norm() <= 1e-4 * wanted.norm() + 1e-6, name
