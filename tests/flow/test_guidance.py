"""Guidance is algebra on velocities; that it is done in one call changes nothing but the cost."""

import pytest
import torch

from rectiflow.conditioning import Conditioning, cat
from rectiflow.flow.guidance import guided
from rectiflow.flow.solvers import integrate
from rectiflow.flow.times import time_grid
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
