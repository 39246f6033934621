"""Guidance is algebra on velocities; that it is done in one call changes nothing but the cost."""

import pytest
import torch

from rectiflow.conditioning import Conditioning, cat
from rectiflow.flow.guidance import (
    Guidance,
    Linear,
    OptimizedScale,
    Projected,
    SkipLayers,
    guided,
    without_strength,
    without_text,
)
from rectiflow.flow.paths import Cosine, RectifiedFlow, VarianceExploding
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


def by_text(network, cond, uncond, scale, window=None):
    """Classifier-free guidance."""
    return Guidance(without_text(network, cat(cond, uncond)), Linear(scale), window)


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_one_call_gives_what_two_calls_give(network, texts, point, scale):
    cond, uncond = texts
    velocity = guided(network, cond, by_text(network, cond, uncond, scale))(*point)
    with_text, without = network(*point, cond), network(*point, uncond)
    torch.testing.assert_close(velocity, without + scale * (with_text - without))
    assert (with_text - without).abs().max() > 0.01  # the text has a say


def test_without_guidance_it_is_exactly_the_conditional_velocity_in_a_single_batch(
    network, texts, point
):
    cond, uncond = texts
    batches = []

    def watched(x, t, c):
        batches.append(len(x))
        return network(x, t, c)

    assert guided(watched, cond)(*point).equal(network(*point, cond))
    guided(watched, cond, by_text(watched, cond, uncond, 2.0))(*point)
    assert batches == [3, 6]


def test_equal_texts_make_the_scale_irrelevant_through_a_whole_integration(network, texts, point):
    cond, _ = texts
    start = point[0]
    plain = integrate(guided(network, cond), start, time_grid(4))
    guidance = by_text(network, cond, cond, 9.0)
    strong = integrate(guided(network, cond, guidance), start, time_grid(4))
    torch.testing.assert_close(strong, plain)


@pytest.fixture
def velocities():
    generator = torch.Generator().manual_seed(5)
    x, conditional, worse = torch.randn(3, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64), conditional, worse


PATHS = [RectifiedFlow(), Cosine(), VarianceExploding()]
RULES = {
    "linear": lambda scale: Linear(scale),
    "cfg-zero": lambda scale: OptimizedScale(scale),
    "apg": lambda scale: Projected(scale, RectifiedFlow(), max_norm=0.3, momentum=-0.5),
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_linear_in_the_scale_and_the_conditional_velocity_at_1(name, velocities):
    ends = [RULES[name](scale)(*velocities) for scale in (1.0, 2.0, 4.0)]
    torch.testing.assert_close(ends[0], velocities[2])
    torch.testing.assert_close(ends[2] - ends[0], 3 * (ends[1] - ends[0]))
    assert (ends[1] - ends[0]).abs().max() > 0.1


def test_cfg_zero_brings_the_worse_velocity_as_near_as_a_factor_can(velocities):
    """The factor of each sample alone is that of least squares; found here by lstsq."""
    _, _, conditional, worse = velocities
    found = OptimizedScale(3.0)(*velocities)
    for i in range(4):
        columns, wanted = worse[i].reshape(-1, 1), conditional[i].reshape(-1, 1)
        factor = torch.linalg.lstsq(columns, wanted).solution.item()
        expected = factor * worse[i] + 3 * (conditional[i] - factor * worse[i])
        torch.testing.assert_close(found[i], expected)
    # A worse velocity that is a multiple of the conditional one has nothing to say.
    torch.testing.assert_close(OptimizedScale(7.0)(*velocities[:3], -2 * conditional), conditional)
    nothing = OptimizedScale(7.0)(*velocities[:3], 0 * conditional)
    torch.testing.assert_close(nothing, 7 * conditional)


def diffusers_apg(path, velocities, scale, eta, max_norm, momentum, num_calls=1):
    """The guided velocity by diffusers' function on predicted data, converted back."""
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    x, t, conditional, worse = velocities
    buffer = MomentumBuffer(momentum)
    for call in range(1, num_calls + 1):
        now = t / call
        data = [path.data_from_velocity(v, x, now) for v in (conditional, call * worse)]
        given = {"momentum_buffer": buffer, "eta": eta, "norm_threshold": max_norm}
        # The paper's form adds (scale - 1) to the conditional prediction; diffusers' own does not.
        guided_data = normalized_guidance(*data, scale - 1, use_original_formulation=True, **given)
    c = path.coefficients(now.view(-1, 1, 1, 1))
    noise = (x - c.alpha * guided_data) / c.sigma
    return c.d_alpha * guided_data + c.d_sigma * noise


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize(
    ("eta", "max_norm", "momentum"),
    [(0.0, 0.0, 0.0), (0.6, 0.0, 0.0), (0.0, 1.5, 0.0), (0.0, 0.0, -0.5), (0.3, 1.5, -0.75)],
)
def test_apg_is_that_of_diffusers_on_predicted_data(velocities, path, eta, max_norm, momentum):
    rule = Projected(4.0, path, eta, max_norm, momentum)
    x, t, conditional, worse = velocities
    for num_calls in (1, 2, 3):
        found = rule(x, t / num_calls, conditional, num_calls * worse)
        given = (4.0, eta, max_norm, momentum, num_calls)
        torch.testing.assert_close(found, diffusers_apg(path, velocities, *given))


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_apg_with_all_of_the_parallel_part_is_the_linear_rule(velocities, path):
    found = Projected(3.0, path, eta=1.0)(*velocities)
    torch.testing.assert_close(found, Linear(3.0)(*velocities))


def test_apg_is_finite_at_data(velocities):
    """Where the noise is 0, so are differences of predicted data."""
    x, t, *others = velocities
    found = Projected(3.0, RectifiedFlow(), max_norm=1.0)(x, 0 * t, *others)
    limit = Projected(3.0, RectifiedFlow(), max_norm=1.0)(x, 0 * t + 1e-9, *others)
    torch.testing.assert_close(found, limit, atol=1e-7, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("name", ["linear", "apg"])
def test_rules_move_predicted_data_alike_on_every_path(path, name, velocities):
    """x / alpha at equal log SNR is the same everywhere: so is what linear rules and APG make of
    the same two predictions. CFG-Zero*'s factor is stated for velocities, and depends on the path.
    """
    x, _, data, worse_data = velocities
    log_snr = torch.tensor([2.0, 0.5, -0.5, -2.0], dtype=torch.float64)

    def guided_data(path):
        t = path.time_at(log_snr)
        c = path.coefficients(t.view(-1, 1, 1, 1))
        noises = [(x - d) * c.alpha / c.sigma for d in (data, worse_data)]
        both = [
            c.d_alpha * d + c.d_sigma * n for d, n in zip((data, worse_data), noises, strict=True)
        ]
        rule = Linear(3.0) if name == "linear" else Projected(3.0, path, max_norm=2.0)
        return path.data_from_velocity(rule(c.alpha * x, t, *both), c.alpha * x, t)

    torch.testing.assert_close(guided_data(path), guided_data(RectifiedFlow()))


def field(value):
    """A velocity of one number, times the conditioning."""
    return lambda x, t, c: value * c.view(-1, 1).expand_as(x)


def test_autoguidance_leads_away_from_the_weaker_network_with_the_same_text():
    """weaker + scale (network - weaker): both see the text, none is left out."""
    cond, x = torch.tensor([3.0, 4.0]), torch.zeros(2, 3)
    pair = without_strength(field(2.0), field(0.5), cond)
    velocity = guided(field(2.0), cond, Guidance(pair, Linear(3.0)))(x, torch.tensor([0.3, 0.8]))
    expected = (0.5 + 3 * (2.0 - 0.5)) * cond
    torch.testing.assert_close(velocity, expected.view(2, 1).expand(2, 3))


def test_outside_its_interval_guidance_is_exactly_off_and_costs_nothing(network, texts, point):
    cond, uncond = texts
    batches = []

    def watched(x, t, c):
        batches.append(len(x))
        return network(x, t, c)

    def velocity(*window):
        return guided(watched, cond, by_text(watched, cond, uncond, 5.0, Window(*window)))(*point)

    assert velocity(0.2, 0.4).equal(network(*point, cond))  # none of 0.1, 0.5, 0.9
    assert batches == [3]
    always = guided(network, cond, by_text(network, cond, uncond, 5.0))(*point)
    mixed = velocity(0.2, 0.5)  # the end belongs to it
    torch.testing.assert_close(mixed[1], always[1])
    torch.testing.assert_close(mixed[[0, 2]], network(*point, cond)[[0, 2]])


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_skip_layer_guidance_is_added_to_the_guided_velocity_inside_its_window(scale):
    """cfg_out + skip scale (cond - cond_skip), the reference's rule, whatever the scale."""
    cond, uncond, t = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 1.5]), torch.tensor([0.3, 0.8])
    skip = SkipLayers(field(0.5), scale=2.5, window=Window(0.5, 0.9))
    both = without_text(field(2.0), torch.cat([cond, uncond]))
    guidance = None if scale == 1 else Guidance(both, Linear(scale))
    velocity = guided(field(2.0), cond, guidance, skip)(torch.zeros(2, 3), t)
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
    guidance = Guidance(without_text(field(1.0), torch.cat([cond, cond])), Linear(5.0))
    velocity = guided(field(1.0), cond, guidance, skip)
    integrate(velocity, torch.ones(1, 1), times, SOLVERS[name])
    starts = times[1:10].float()
    expected = {"heun": starts.repeat_interleave(2)}.get(name, starts)
    assert seen == expected.tolist()


def test_the_blocks_are_left_out_of_the_conditional_half_alone():
    seen = []
    skip = SkipLayers(lambda x, t, c: seen.append((x, c)) or x, 1.0, Window(0.0, 1.0))
    cond, x = torch.tensor([3.0, 4.0]), torch.rand(2, 3)
    guidance = Guidance(without_text(field(1.0), torch.cat([cond, 0 * cond])), Linear(7.0))
    guided(field(1.0), cond, guidance, skip)(x, torch.tensor([0.5, 0.6]))
    assert len(seen) == 1
    assert seen[0][0].equal(x)
    assert seen[0][1].equal(cond)
