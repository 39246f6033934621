"""Guidance is algebra on velocities; that it is done in one call changes nothing but the cost."""

import pytest
import torch

from rectiflow.conditioning import Conditioning, cat
from rectiflow.flow.guidance import SkipLayers, guided
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import Window, steps_between, time_grid, window_of_steps
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig


@pytest.fixture(scope="module")
def network():
    config = MMDiTConfig(
        depth=2, head_width=8, context_width=6, pooled_width=5, base_side=2, table_side=4
    )
    model, generator = MMDiT(config), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.double().requires_grad_(False)  # rounding shall not blur the algebra


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(1)
    cond, uncond = (
        Conditioning(
            torch.randn(3, 4, 6, generator=generator), torch.randn(3, 5, generator=generator), (4,)
        ).to(dtype=torch.float64)
        for _ in range(2)
    )
    return cond, uncond


@pytest.fixture(scope="module")
def point():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 16, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_one_call_gives_what_two_calls_give(network, texts, point, scale):
    cond, uncond = texts
    velocity = guided(network, cond, cat(cond, uncond), scale)(*point)
    with_text, without = network(*point, cond), network(*point, uncond)
    torch.testing.assert_close(velocity, without + scale * (with_text - without))
    assert (with_text - without).abs().max() > 0.01  # the text has a say


def test_scale_1_is_exactly_the_conditional_velocity_in_a_single_batch(network, texts, point):
    cond, uncond = texts
    batches = []

    def watched(x, t, c):
        batches.append(len(x))
        return network(x, t, c)

    assert guided(watched, cond, cat(cond, uncond), 1.0)(*point).equal(network(*point, cond))
    guided(watched, cond, cat(cond, uncond), 2.0)(*point)
    assert batches == [3, 6]


def test_guidance_is_linear_in_the_scale():
    def network(x, t, c):
        return x * c.view(-1, 1)

    x, t, cond = torch.ones(2, 3), torch.zeros(2), torch.tensor([3.0, 5.0])
    both = torch.cat([cond, torch.ones(2)])
    for scale in (-1.0, 0.0, 2.0, 7.5):
        expected = (1 + scale * (cond - 1)).view(-1, 1).expand(2, 3)
        assert guided(network, cond, both, scale)(x, t).equal(expected)


def test_equal_texts_make_the_scale_irrelevant_through_a_whole_integration(network, texts, point):
    cond, _ = texts
    start = point[0]
    plain = integrate(guided(network, cond, cat(cond, cond), 1.0), start, time_grid(4))
    strong = integrate(guided(network, cond, cat(cond, cond), 9.0), start, time_grid(4))
    torch.testing.assert_close(strong, plain)


def field(value):
    """A velocity of one number, times the conditioning."""
    return lambda x, t, c: value * c.view(-1, 1).expand_as(x)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_skip_layer_guidance_is_added_to_the_guided_velocity_inside_its_window(scale):
    """cfg_out + skip scale (cond - cond_skip), the reference's rule, whatever the scale."""
    cond, uncond, t = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 1.5]), torch.tensor([0.3, 0.8])
    skip = SkipLayers(field(0.5), scale=2.5, window=Window(0.5, 0.9))
    both = torch.cat([cond, uncond])
    velocity = guided(field(2.0), cond, both, scale, skip)(torch.zeros(2, 3), t)
    plain = 2 * uncond + scale * (2 * cond - 2 * uncond)
    expected = plain + torch.tensor([0.0, 2.5]) * (2 * cond - 0.5 * cond)
    torch.testing.assert_close(velocity, expected.view(2, 1).expand(2, 3))


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpmpp_2m_snr", "heun"])
def test_the_reference_window_of_50_steps_is_steps_1_to_9(name):
    """0.01 < i / 50 < 0.20, strictly: a solver of one call per step skips at exactly these."""
    times, seen = time_grid(50, 3.0, "sd3"), []

    def without(x, t, c):
        seen.append(t[0].item())
        return torch.zeros_like(x)

    window = window_of_steps(times, steps_between(50, 0.01, 0.20))
    skip = SkipLayers(without, 2.5, window)
    cond = torch.ones(1)
    velocity = guided(field(1.0), cond, torch.cat([cond, cond]), 5.0, skip)
    integrate(velocity, torch.ones(1, 1), times, SOLVERS[name])
    starts = times[1:10].float()
    expected = {"heun": starts.repeat_interleave(2)}.get(name, starts)
    assert seen == expected.tolist()


def test_the_blocks_are_left_out_of_the_conditional_half_alone():
    seen = []
    skip = SkipLayers(lambda x, t, c: seen.append((x, c)) or x, 1.0, Window(0.0, 1.0))
    cond, x = torch.tensor([3.0, 4.0]), torch.rand(2, 3)
    guided(field(1.0), cond, torch.cat([cond, 0 * cond]), 7.0, skip)(x, torch.tensor([0.5, 0.6]))
    assert len(seen) == 1
    assert seen[0][0].equal(x)
    assert seen[0][1].equal(cond)
