"""Densities are the laws they name."""

import math

import pytest
import torch

from rectiflow.flow.densities import (
    MAX_MODE_SCALE,
    CosMap,
    HalfCauchy,
    LogitNormal,
    LogLogistic,
    LogNormal,
    Mode,
    Uniform,
)
from rectiflow.flow.paths import Cosine, RectifiedFlow, VarianceExploding

DENSITIES = [
    Uniform(),
    LogitNormal(),
    LogitNormal(-1.0, 0.2),
    LogitNormal(1.0, 2.2),
    Mode(-1.0),
    Mode(0.0),
    Mode(1.29),
    Mode(1.75),
    CosMap(),
    LogNormal(),
    LogNormal(1.2, 1.8),
    LogLogistic(),
    HalfCauchy(),
]


def even(num: int) -> torch.Tensor:
    """Centres of `num` equal cells of (0, 1)."""
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


@pytest.mark.parametrize("law", DENSITIES, ids=str)
def test_quantile_is_the_inverse_of_the_integrated_density(law):
    """density(t(u)) dt/du = 1, with dt/du by autograd."""
    u = even(500).requires_grad_()
    t = law.inverse_cdf(u)
    (slope,) = torch.autograd.grad(t.sum(), u)
    inside = (t.detach() > 0.002 / 80) & (t.detach() < 1)  # beyond, EDM's levels are clipped
    assert inside.double().mean() > 0.95
    assert (slope[inside] > 0).all()
    one = law.density(t.detach()[inside]) * slope[inside]
    torch.testing.assert_close(one, torch.ones_like(one))


@pytest.mark.parametrize("law", DENSITIES, ids=str)
def test_extreme_draws_stay_strictly_inside(law):
    u = torch.tensor([1e-300, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    t = law.quantile(u)
    assert t.dtype == torch.float32
    assert (t > 0).all()
    assert (t < 1).all()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.6), (-1.0, 1.8)])
def test_logit_normal_moments(mean, std):
    logit = torch.logit(LogitNormal(mean, std).quantile(even(200_000)).double())
    assert logit.mean().item() == pytest.approx(mean, abs=1e-4)
    assert logit.std().item() == pytest.approx(std, rel=1e-3)
    assert ((logit - mean) / std).pow(4).mean().item() == pytest.approx(3, abs=0.01)


def test_mode_density_at_the_ends_and_in_the_middle():
    """1 / (1 + s) at the ends, 1 / (1 + s - s pi / 2) at 1/2 (from the derivative of Eq. 20)."""
    for scale in (-1.0 + 1e-3, -0.54, 0.38, 1.29, 1.75):
        ends = Mode(scale).density(torch.tensor([1e-12, 1 - 1e-12], dtype=torch.float64))
        middle = Mode(scale).density(torch.tensor([0.5], dtype=torch.float64))
        assert ends.tolist() == pytest.approx([1 / (1 + scale)] * 2, rel=1e-5)
        assert middle.item() == pytest.approx(1 / (1 + scale - scale * math.pi / 2))
    assert Mode(1.29).density(torch.tensor([0.5]).double()).item() == pytest.approx(3.79, abs=0.01)
    assert Mode(1.75).density(torch.tensor([0.5]).double()).item() == pytest.approx(904, abs=1)


def test_mode_is_the_papers_map_of_a_uniform_draw():
    u = even(1000)
    paper = 1 - u - 1.29 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
    torch.testing.assert_close(Mode(1.29).inverse_cdf(u), paper.flip(0))


def test_mode_of_scale_0_is_uniform():
    assert Mode(0.0).inverse_cdf(even(10)).equal(even(10))


def test_cosmap_gives_rectified_flow_the_log_snr_of_the_cosine_schedule():
    """Cosine schedule (Eq. 17): log_snr = 2 log(cos(pi u / 2) / sin(pi u / 2)), u uniform."""
    u = even(1000)
    log_snr = RectifiedFlow().log_snr(CosMap().inverse_cdf(u))
    torch.testing.assert_close(log_snr, -2 * torch.log(torch.tan(math.pi / 2 * u)))


def test_cosmap_density_at_the_ends_and_in_the_middle():
    density = CosMap().density(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert density.tolist() == pytest.approx([2 / math.pi, 4 / math.pi, 2 / math.pi])


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.6, 0.6)])
def test_the_log_of_edms_noise_is_normal(mean, std):
    log_sigma = torch.log(80 * LogNormal(mean, std).quantile(even(100_000)).double())
    assert log_sigma.mean().item() == pytest.approx(mean, abs=1e-4)
    assert log_sigma.std().item() == pytest.approx(std, rel=1e-3)
    log_snr = VarianceExploding().log_snr(LogNormal(mean, std).quantile(even(1000)).double())
    expected = LogitNormal(mean, std).quantile(even(1000)).double()  # ln(t / (1 - t)) = ln sigma
    torch.testing.assert_close(log_snr, RectifiedFlow().log_snr(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("law", "other"), [(LogLogistic(), RectifiedFlow()), (HalfCauchy(), Cosine())]
)
def test_matched_pairs_have_the_log_snr_of_the_other_path_at_uniform_times(law, other):
    u = even(1000)
    ours = VarianceExploding().log_snr(law.quantile(u).double())
    clipped = other.log_snr(u).clamp(-2 * math.log(80), -2 * math.log(0.002))
    torch.testing.assert_close(ours, clipped, rtol=1e-5, atol=1e-5)


def test_the_log_of_the_noise_of_edm_rf_is_standard_logistic():
    log_sigma = LogLogistic().sigma(even(100_000)).log()
    assert log_sigma.mean().item() == pytest.approx(0, abs=1e-6)
    assert log_sigma.var().item() == pytest.approx(math.pi**2 / 3, rel=1e-3)


@pytest.mark.parametrize("law", [LogNormal(1.2, 1.8), LogLogistic(), HalfCauchy()], ids=str)
def test_edms_noise_is_clipped_to_its_ends(law):
    """Of the heavy tail 3.9, 1.2 and 0.8 % lie at 80: by the distribution functions beyond it."""
    sigma = 80 * law.quantile(even(100_000)).double()
    assert (sigma.min().item(), sigma.max().item()) == pytest.approx((0.002, 80), rel=0.5)
    assert (sigma.min() >= 0.002 * (1 - 1e-6)) & (sigma.max() <= 80)
    beyond = {
        LogNormal(1.2, 1.8): 0.5 * math.erfc((math.log(80) - 1.2) / 1.8 / math.sqrt(2)),
        LogLogistic(): 1 / 81,
        HalfCauchy(): 1 - 2 / math.pi * math.atan(80),
    }
    assert (sigma > 79.999).double().mean().item() == pytest.approx(beyond[law], abs=2e-5)


def test_the_papers_time_is_the_quantile_of_edms_law_and_elsewhere_ours():
    u = torch.tensor([1 / 8, 0.5, 1.0], dtype=torch.float64)
    for law in (Uniform(), LogitNormal(0.5, 0.6), Mode(1.29), CosMap()):
        assert law.level(u).equal(u)
    for law in (LogNormal(), LogLogistic(), HalfCauchy()):
        assert law.level(u).equal(law.quantile(u))
        assert law.level(u)[-1].item() == pytest.approx(1)  # 80, the largest noise
    median = 80 * LogNormal(-1.2, 1.2).level(u)[1].item()
    assert median == pytest.approx(math.exp(-1.2), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitNormal(std=-1), r"std > 0, got mean 0.0, std -1"),
        (lambda: LogitNormal(std=math.nan), r"std > 0"),
        (lambda: LogitNormal(mean=math.inf), r"mean must be finite"),
        (lambda: LogNormal(0.0, 0.0), r"std > 0, got mean 0.0, std 0.0"),
        (lambda: Mode(-1.01), r"in \[-1, 1.7519\], got -1.01"),
        (lambda: Mode(MAX_MODE_SCALE + 1e-9), r"in \[-1, 1.7519\]"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
