import dataclasses

import pytest
import torch

from rectiflow.conditioning import Conditioning, cat
from rectiflow.flow.formulations import formulation
from rectiflow.nn.embeddings import position_table
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig, with_positions

CONFIG = MMDiTConfig(
    depth=2,
    patch_size=2,
    latent_channels=4,
    context_width=6,
    pooled_width=5,
    base_side=4,
    table_side=8,
    head_width=16,
)

VARIANTS = {
    "MMDiT-X": {"dual_attention": (0, 1)},
    "three weight sets": {"num_weight_sets": 3},
}


def awake(config: MMDiTConfig = CONFIG) -> MMDiT:
    """A network all of whose weights, gates and biases have a say."""
    model, generator = MMDiT(config), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def inputs(batch: int = 3, height: int = 8, width: int = 8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, height, width, generator=generator)
    context = torch.randn(batch, 5, 6, generator=generator)
    pooled = torch.randn(batch, 5, generator=generator)
    return x, torch.linspace(0.1, 0.9, batch), Conditioning(context, pooled, (3, 2))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("variant", [{}, *VARIANTS.values()], ids=str)
def test_a_fresh_network_is_the_zero_velocity_and_its_blocks_the_identity(variant):
    model = MMDiT(dataclasses.replace(CONFIG, **variant))
    x, t, cond = inputs()
    assert not model(x, t, cond).any()
    num_texts = model.config.num_weight_sets - 1
    tokens = [*(torch.randn(3, 5, 32) for _ in range(num_texts)), torch.randn(3, 16, 32)]
    for block in model.blocks:
        for before, after in zip(tokens, block(tokens, torch.randn(3, 32)), strict=True):
            assert after.equal(before)


def test_initial_weights_follow_the_generator():
    first, second, third = MMDiT(CONFIG), MMDiT(CONFIG), MMDiT(CONFIG)
    for model, seed in ((first, 1), (second, 1), (third, 2)):
        model.reset_parameters(torch.Generator().manual_seed(seed))
    for name, weight in first.state_dict().items():
        assert second.state_dict()[name].equal(weight), name
    assert not third.blocks[0].image.qkv.weight.equal(first.blocks[0].image.qkv.weight)
    assert first.time_embedding.project.weight.std().item() == pytest.approx(0.02, rel=0.1)
    bound = (6 / (32 + 96)) ** 0.5  # Xavier, of the fused queries, keys and values
    assert first.blocks[0].image.qkv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 16), (10, 6)])
def test_a_sample_does_not_depend_on_its_batch(height, width):
    model = awake()
    x, t, cond = inputs(5, height, width)
    together = model(x, t, cond)
    assert together.shape == x.shape
    for i in range(5):
        alone = model(x[i : i + 1], t[i : i + 1], cond.select([i]))
        assert relative(together[i : i + 1], alone) < 1e-5


def test_every_input_has_a_say_and_text_order_has_none():
    model = awake()
    x, t, cond = inputs()
    base = model(x, t, cond)
    others = {
        "x": model(x.flip(-1), t, cond),
        "t": model(x, t + 0.05, cond),
        "context": model(x, t, dataclasses.replace(cond, context=cond.context * 1.1)),
        "pooled": model(x, t, dataclasses.replace(cond, pooled=cond.pooled * 1.1)),
    }
    for name, other in others.items():
        assert relative(other, base) > 1e-3, name
    assert relative(others["x"].flip(-1), base) > 0.01  # pictures have positions
    shuffled = dataclasses.replace(cond, context=cond.context[:, [4, 2, 0, 1, 3]])
    assert relative(model(x, t, shuffled), base) < 1e-5  # text tokens have none


def test_autocast_changes_no_more_than_bf16_rounding_and_keeps_float32_at_the_ends():
    model = awake()
    x, t, cond = inputs()
    exact = model(x, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(x, t, cond)
    assert velocity.dtype == torch.float32
    assert 1e-5 < relative(velocity, exact) < 0.03


def test_times_closer_than_bf16_can_tell_differ_under_autocast():
    model = awake()
    t = torch.tensor([0.7, 0.7 + 2**-12])
    assert t.bfloat16().unique().numel() == 1
    with torch.autocast("cpu", torch.bfloat16):
        near = model._activated(t, torch.zeros(2, 5))
    exact = model.double()._activated(t, torch.zeros(2, 5))
    assert near.dtype == torch.float32
    torch.testing.assert_close(
        (near[1] - near[0]).double(), exact[1] - exact[0], rtol=0.05, atol=1e-4
    )


def test_weights_stored_in_bf16_run_without_autocast():
    x, t, cond = inputs()
    exact = awake()(x, t, cond)
    velocity = awake().bfloat16()(x, t, cond)
    assert velocity.dtype == torch.float32
    assert relative(velocity, exact) < 0.05


@pytest.mark.parametrize("variant", [{}, *VARIANTS.values()], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_learns_but_for_the_unused_queries_of_the_last_text(autocast, variant):
    model = awake(dataclasses.replace(CONFIG, **variant))
    x, t, cond = inputs()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        velocity = model(x, t, cond)
    velocity.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    for last in model.blocks[-1].streams[:-1]:
        assert not last.qkv.weight.grad[:32].any()
        assert not last.qk_norm.scale.grad[0].any()


def test_gradients_under_autocast_are_those_of_float32_but_for_rounding():
    grads = []
    for autocast in (False, True):
        model = awake()
        x, t, cond = inputs()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            velocity = model(x, t, cond)
        velocity.square().mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert relative(grads[1], grads[0]) < 0.05


@pytest.mark.parametrize(
    "change",
    [
        {"qk_norm": False},
        {"base_side": 2},
        {"head_width": 8},
        {"depth": 1},
        {"num_heads": 1},
        {"head_width": 8, "num_heads": 4},
        {"dual_attention": (1,)},
        {"num_weight_sets": 3},
    ],
    ids=str,
)
def test_settings_that_leave_the_interface_alone_change_the_velocity(change):
    x, t, cond = inputs()
    other = awake(dataclasses.replace(CONFIG, **change))
    assert relative(other(x, t, cond), awake()(x, t, cond)) > 1e-3


def test_three_weight_sets_with_equal_weights_for_all_text_are_two():
    two, three = awake(), MMDiT(dataclasses.replace(CONFIG, num_weight_sets=3))
    weights = two.state_dict()
    for name in [name for name in weights if ".context." in name]:
        weights[name.replace(".context.", ".t5.")] = weights[name]
    three.load_state_dict(weights)
    arguments = inputs()
    assert relative(three(*arguments), two(*arguments)) < 1e-6


@pytest.mark.parametrize("kind", ["context", "t5"])
def test_of_three_weight_sets_each_meets_its_segment_only(kind):
    """With no tokens in a segment, its weights have no say; the others still do."""
    model = awake(dataclasses.replace(CONFIG, num_weight_sets=3))
    x, t, cond = inputs()
    segments = (5, 0) if kind == "context" else (0, 5)
    cond = dataclasses.replace(cond, segments=segments)
    model(x, t, cond).square().mean().backward()
    for name, parameter in model.blocks.named_parameters():
        assert parameter.grad is not None, name
        if "context" in name or "t5" in name:
            assert parameter.grad.any() == (kind in name), name


def test_three_weight_sets_need_two_segments():
    model = awake(dataclasses.replace(CONFIG, num_weight_sets=3))
    x, t, cond = inputs()
    with pytest.raises(ValueError, match=r"two segments, CLIP and T5 tokens, got \(5,\)"):
        model(x, t, dataclasses.replace(cond, segments=(5,)))


def test_skipped_blocks_are_left_out():
    model, shorter = awake(), awake()
    shorter.blocks = shorter.blocks[1:]
    arguments = inputs()
    skipped = model(*arguments, skip_blocks=(0,))
    assert skipped.equal(shorter(*arguments))
    assert relative(skipped, model(*arguments)) > 0.01
    with pytest.raises(ValueError, match=r"blocks from 0 to 1, got \[1, 2\]"):
        model(*arguments, skip_blocks={2, 1})


def test_new_positions_keep_the_weights_and_follow_the_new_base_size():
    model = awake()
    larger = with_positions(model, base_side=8, table_side=12, table_rows=10)
    assert (larger.config.base_side, larger.config.rows, larger.config.table_side) == (8, 10, 12)
    assert larger.positions.table.equal(position_table(32, 8, 10, 12))
    pairs = zip(larger.named_parameters(), model.named_parameters(), strict=True)
    for (name, ours), (_, original) in pairs:
        assert ours.data_ptr() == original.data_ptr(), name
        assert ours.requires_grad
    # Every other token of a square of the new base size lies where one of the old does.
    wide = larger.positions(8, 8).view(8, 8, 32)[::2, ::2].flatten(0, 1)
    torch.testing.assert_close(wide, model.positions(4, 4))
    x, t, cond = inputs(height=18, width=24)
    assert larger(x, t, cond).shape == x.shape
    assert relative(larger(*inputs()), model(*inputs())) > 1e-3
    assert with_positions(model, base_side=4, table_side=8)(*inputs()).equal(model(*inputs()))


def test_positions_of_a_network_in_bf16_stay_in_bf16():
    larger = with_positions(awake().bfloat16(), base_side=8, table_side=8)
    assert larger.positions.table.dtype == torch.bfloat16


def test_a_table_that_is_no_square_limits_rows_and_columns_apart():
    model = awake(dataclasses.replace(CONFIG, table_rows=5))
    assert model.config.max_latent_side == 10
    assert model(*inputs(height=10, width=16)).shape[-2:] == (10, 16)
    with pytest.raises(ValueError, match="may have 5x8 tokens, got 6x8"):
        model(*inputs(height=12, width=16))


def test_the_configuration_tells_what_latents_fit():
    assert (CONFIG.latent_multiple, CONFIG.base_latent_side, CONFIG.max_latent_side) == (2, 8, 16)
    assert CONFIG.takes_pooled


def test_a_small_network_learns_a_few_pictures_by_heart():
    """Flow matching on two pictures told apart by their text only; untrained loss is about 2."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = MMDiT(dataclasses.replace(CONFIG, head_width=32))
    form = formulation("rf/lognorm(0,1)")
    data = torch.randn(2, 4, 4, 4, generator=generator).repeat(16, 1, 1, 1)
    one = Conditioning(torch.eye(2, 6)[:, None], torch.eye(2, 5), (1,))
    cond = cat(*[one] * 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        t = form.density.quantile(torch.rand(32, generator=generator, dtype=torch.float64))
        noise = torch.randn(data.shape, generator=generator)
        x = form.path.interpolate(data, noise, t)
        loss = form.loss(model(x, t, cond), data, noise, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert sum(losses[-10:]) / 10 < 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"latent_channels": -1}, "latent_channels must be >= 1, got -1"),
        ({"num_heads": 0}, "num_heads must be >= 1, got 0"),
        ({"head_width": 5}, "the width must be a multiple of 4, got 10"),
        ({"table_rows": 3}, "table_rows must be at least base_side, got 3 < 4"),
        ({"dual_attention": (0, 2)}, r"blocks from 0 to 1, ascending, got \[0, 2\]"),
        ({"dual_attention": (1, 0)}, r"blocks from 0 to 1, ascending, got \[1, 0\]"),
        ({"num_weight_sets": 4}, "num_weight_sets must be 2 or 3, got 4"),
        ({"base_side": 9}, "table_side must be at least base_side, got 8 < 9"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_pictures_that_do_not_fit_are_refused():
    model = awake()
    x, t, cond = inputs(height=18)
    with pytest.raises(ValueError, match="may have 8x8 tokens, got 9x4"):
        model(x, t, cond)
    x, t, cond = inputs(height=7)
    with pytest.raises(ValueError, match="multiples of the patch size 2, got 7x8"):
        model(x, t, cond)
