"""Names are the paper's, and behind each lies one flow: weights, minimisers and samples agree."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from rectiflow.flow.densities import CosMap, LogitNormal, LogNormal, Mode, Uniform
from rectiflow.flow.formulations import STUDY, TABLE_1, Formulation, formulation
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.steps import euler
from rectiflow.flow.times import uniform_times
from tests.flow.gaussian import Ideal

NAMES = {
    "rf": Uniform(),
    "rf/lognorm(0.00,1.00)": LogitNormal(0.0, 1.0),
    "rf/lognorm(-0.50,1.00)": LogitNormal(-0.5, 1.0),
    "rf/lognorm(0.125,2.20)": LogitNormal(0.125, 2.2),
    "rf/mode(1.29)": Mode(1.29),
    "rf/mode(-0.08)": Mode(-0.08),
    "rf/cosmap": CosMap(),
    "edm(0.60,1.80)": LogNormal(0.6, 1.8),
    "eps/linear": Uniform(),
}
OUTSIDE = ("eps/ddpm", "v/ddpm", "data/linear", "data/cos", "data/ddpm")  # of the study
PAIRS = ("rf", "edm(-1.20,1.20)", "eps/linear", "v/linear", "eps/cos", "v/cos", *OUTSIDE)
"""One name for each pair of a path and a prediction."""
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 1.5]], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_paper_parse_and_print_back(name):
    assert formulation(name).name == name
    assert formulation(name).density == NAMES[name]


@pytest.mark.parametrize("name", STUDY + OUTSIDE)
def test_every_name_parses_and_prints_back(name):
    assert formulation(name).name == name


def test_the_study_has_61_formulations_in_its_families():
    stems = Counter(name.partition("(")[0] for name in STUDY)
    assert (len(STUDY), len(set(STUDY))) == (61, 61)
    once = ("eps/linear", "v/linear", "eps/cos", "v/cos", "rf", "rf/cosmap", "edm/rf", "edm/cos")
    assert stems == {"rf/lognorm": 30, "edm": 15, "rf/mode": 8, **dict.fromkeys(once, 1)}
    assert "rf/mode(1.00)" in STUDY
    assert {"rf/lognorm(-0.50,1.00)", "rf/mode(-0.54)", "edm(1.20,1.80)"} < set(STUDY)


def test_table_1_has_16_of_them_best_first():
    assert len(TABLE_1) == len(set(TABLE_1)) == 16
    assert set(TABLE_1) < set(STUDY)
    assert "eps/cos" not in TABLE_1
    assert (TABLE_1[0], TABLE_1[5], TABLE_1[9]) == ("rf/lognorm(0.00,1.00)", "eps/linear", "rf")
    assert TABLE_1[-1] == "edm(-1.20,1.20)"


@pytest.mark.parametrize(
    "spelling", ["rf/lognorm(0,1)", " rf/lognorm( 0.0 , 1 ) ", "rf/lognorm(-0,1)"]
)
def test_spellings_of_one_formulation_have_one_name(spelling):
    assert formulation(spelling) == formulation("rf/lognorm(0.00,1.00)")
    assert formulation(spelling).name == "rf/lognorm(0.00,1.00)"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("rf/lognrm(0,1)", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(1)", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(0,one)", "rf/lognorm(0.00,1.00)"),
        ("rf/mode", "rf/mode(1.29)"),
        ("rf/cosmap(1)", "rf/cosmap"),
        ("rf()", "rf"),
        ("RF", "rf"),
        ("edm(-1.2)", "edm(-1.20,1.20)"),
        ("edm/rff", "edm/rf"),
        ("eps/linaer", "eps/linear"),
        ("v-cos", "v/cos"),
        ("eps/cos(1)", "eps/cos"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="unknown formulation") as refusal:
        formulation(name)
    assert str(refusal.value).endswith(repr(nearest))


def test_numbers_out_of_range_are_refused_with_the_name():
    with pytest.raises(ValueError, match=r"rf/mode\(3\).*in \[-1, 1.7519\], got 3.0"):
        formulation("rf/mode(3)")
    with pytest.raises(ValueError, match=r"rf/lognorm\(0,-1\).*std > 0"):
        formulation("rf/lognorm(0,-1)")
    with pytest.raises(ValueError, match=r"edm\(0,0\).*std > 0"):
        formulation("edm(0,0)")
    with pytest.raises(ValueError, match="mean must be finite"):
        formulation("rf/lognorm(inf,1)")


def test_loss_of_a_known_predictor_has_its_closed_form():
    """Data ~ N(0, 0.5^2), output c x_t: E[loss] = (1 - c t)^2 + 0.25 (1 + c (1 - t))^2."""
    form, c, t = formulation("rf"), 0.7, torch.full((64,), 0.3)
    data, noise = torch.randn(2, 64, 4096, generator=torch.Generator().manual_seed(0)).unbind()
    data = 0.5 * data
    loss = form.loss(c * form.path.interpolate(data, noise, t), data, noise, t)
    assert loss.shape == (64,)
    expected = (1 - c * 0.3) ** 2 + 0.25 * (1 + c * 0.7) ** 2
    assert loss.mean().item() == pytest.approx(expected, rel=0.01)


def test_the_true_velocity_has_no_loss_and_is_read_as_velocity():
    form = formulation("rf/lognorm(0,1)")
    data, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0.1, 0.5, 0.9])
    assert form.loss(noise - data, data, noise, t).tolist() == [0, 0, 0]
    output = form.velocity(noise - data, form.path.interpolate(data, noise, t), t)
    assert output.equal(noise - data)


def test_weight_multiplies_each_samples_loss():
    plain = formulation("rf")
    weighted = Formulation(
        name="rf weighted",
        path=plain.path,
        prediction=plain.prediction,
        density=plain.density,
        weight=lambda t: t / (1 - t),
    )
    data, noise, output = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0.25, 0.5, 0.75])
    ratio = weighted.loss(output, data, noise, t) / plain.loss(output, data, noise, t)
    torch.testing.assert_close(ratio, torch.tensor([1 / 3, 1, 3]))


def test_every_formulation_draws_times_of_its_own():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    names = [name for name in NAMES if "/linear" not in name]
    draws = [formulation(name).density.quantile(u) for name in names]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert (one - other).abs().max() > 0.005
    assert math.isclose(draws[1][49].item(), 0.5)


# The paper's w_t as functions of the log SNR (Sec. 2 and 3), and the constant by which the plain
# squared error of the own target, at times of the own density, differs.
def normal(x, mean, std):
    return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def rf_weight(density):
    def weight(log_snr):
        t = torch.sigmoid(-log_snr / 2)
        return t / (1 - t) * density(t)

    return weight


def schedules_density(log_snr):
    """Of linear betas, from the schedule: |dt / d log SNR| by differences, 2 of it being w_t."""
    path = formulation("eps/linear").path
    step = 1e-5
    return (path.time_at(log_snr - step) - path.time_at(log_snr + step)) / (2 * step)


WEIGHTS = {
    "rf": (1, rf_weight(torch.ones_like)),
    "rf/lognorm(0.50,0.60)": (1, rf_weight(LogitNormal(0.5, 0.6).density)),
    "rf/mode(1.29)": (1, rf_weight(Mode(1.29).density)),
    "rf/cosmap": (1, rf_weight(lambda t: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2))),
    "edm(-1.20,1.20)": (2 / 0.25, lambda s: normal(s, 2.4, 2.4) * (torch.exp(-s) + 0.25)),
    "edm(0.60,1.20)": (2 / 0.25, lambda s: normal(s, -1.2, 2.4) * (torch.exp(-s) + 0.25)),
    "edm/rf": (8, lambda s: (torch.exp(-s) + 0.25) / (8 * torch.cosh(s / 4) ** 2)),
    "edm/cos": (8, lambda s: (torch.exp(-s) + 0.25) / (2 * math.pi * torch.cosh(s / 2))),
    "eps/cos": (1 / math.pi, lambda s: 1 / torch.cosh(s / 2)),
    "v/cos": (2 / math.pi, lambda s: torch.exp(-s / 2)),
    "eps/linear": (2, schedules_density),
    "v/linear": (2, lambda s: schedules_density(s) * (1 + torch.exp(-s))),
}


def times_of(form):
    """Times of equal log SNR on every path."""
    return form.path.time_at(torch.linspace(4, -4, 9, dtype=torch.float64))


@pytest.mark.parametrize("name", WEIGHTS)
def test_plain_squared_error_has_the_papers_weight(name):
    form, (constant, weight) = formulation(name), WEIGHTS[name]
    t = times_of(form)
    expected = constant * weight(form.path.log_snr(t))
    torch.testing.assert_close(form.unified_weight(t), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", WEIGHTS)
def test_loss_of_a_wrong_predictor_is_the_papers_at_every_time(name):
    """L_w = -1/2 E[w_t log_snr' |error of the noise|^2]; here the noise is taken for c x.

    The four samples have exactly the second moments of noise and of Gaussian data of spread 0.7,
    and the error of the noise is quadratic in them: (c sigma - 1)^2 + (c alpha 0.7)^2.
    """
    form, (constant, weight), c = formulation(name), WEIGHTS[name], 0.4
    t = times_of(form)
    data = 0.7 * torch.tensor([1.0, 1, -1, -1], dtype=torch.float64).expand(9, 4)
    noise = torch.tensor([1.0, -1, 1, -1], dtype=torch.float64).expand(9, 4)
    at = form.path.coefficients_like(t, data)
    x = form.path.interpolate(data, noise, t)
    p, q = form.prediction.mixture(at)
    output = p * (x - at.sigma * c * x) / at.alpha + q * c * x
    alpha, sigma = at.alpha.squeeze(), at.sigma.squeeze()
    error = (c * sigma - 1) ** 2 + (c * alpha * 0.7) ** 2
    papers = -0.5 * weight(form.path.log_snr(t)) * form.path.d_log_snr(t) * error
    ours = form.density.density(t) * form.loss(output, data, noise, t)
    torch.testing.assert_close(ours, constant * papers, rtol=1e-6, atol=0)


def points(form, t):
    """The same points x / alpha for every path, at times of equal log SNR."""
    x = torch.randn(len(t), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c = form.path.coefficients_like(t, x)
    return x * (c.alpha**2 + c.sigma**2).sqrt()


def true_velocity(path, x, t):
    """Mean of d_alpha data + d_sigma noise given x, on Gaussian data."""
    c = path.coefficients(t.view(-1, 1, 1))
    eye = torch.eye(2, dtype=torch.float64)
    of_x = torch.linalg.inv(c.alpha**2 * COVARIANCE + c.sigma**2 * eye)
    matrix = (c.d_alpha * c.alpha * COVARIANCE + c.d_sigma * c.sigma * eye) @ of_x
    return (matrix @ x[:, :, None]).squeeze(-1)


@pytest.mark.parametrize("name", PAIRS)
def test_within_a_path_every_minimiser_is_the_same_velocity_field(name):
    form = formulation(name)
    t = times_of(form)
    x = points(form, t)
    field = form.field(Ideal(form, COVARIANCE))
    torch.testing.assert_close(field(x, t), true_velocity(form.path, x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_matching_conditional_velocities_or_their_mean_differs_by_a_constant(name):
    """App. B.1: L_CFM - L_FM is the same for every network. All signs have noise's moments."""
    form = formulation(name)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    data, noise = signs[:, :2] @ torch.linalg.cholesky(COVARIANCE).T, signs[:, 2:]
    for time in times_of(form)[1::3]:
        t = time.expand(16)
        x, single = form.path.interpolate(data, noise, t), form.path.velocity(data, noise, t)
        mean = form.field(Ideal(form, COVARIANCE))(x, t)
        gaps = [
            (network * x - single).square().mean() - (network * x - mean).square().mean()
            for network in (-1.0, 0.5, 2.0)
        ]
        assert gaps[0] > 0.1
        torch.testing.assert_close(gaps[1:], gaps[:1] * 2)


@pytest.mark.parametrize("name", PAIRS)
def test_across_paths_fields_agree_at_equal_log_snr(name):
    """z = x / alpha over s = sigma / alpha has one slope, dz/ds, on all paths: that of rf."""
    form, rf = formulation(name), formulation("rf")

    def slope(form, z, t):
        c = form.path.coefficients_like(t, z)
        velocity = form.field(Ideal(form, COVARIANCE))(c.alpha * z, t)
        return (c.alpha * velocity - c.d_alpha * c.alpha * z) / c.wronskian

    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = slope(form, z, times_of(form)), slope(rf, z, times_of(rf))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_one_step_of_eulers_reaches_known_data(name):
    """On every path, as on that of rf: predictions that stay the same are followed exactly."""
    form = formulation(name)
    data, noise = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)).double().unbind()
    times = form.times(1)

    def field(x, t):
        return form.path.velocity(data, noise, t)

    start = form.path.interpolate(data, noise, times[:1])
    end = integrate(field, start, times, path=form.path)
    torch.testing.assert_close(end, data, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
def test_a_grid_from_where_nothing_is_left_of_the_data_is_refused(solver):
    form, x = formulation("eps/cos"), torch.ones(1, 1)
    with pytest.raises(ValueError, match=r"times must be <= max_time 0\.98, got 1"):
        integrate(form.field(torch.mul), x, uniform_times(4), SOLVERS[solver], path=form.path)


@pytest.mark.parametrize(
    ("name", "num_steps", "left"),
    [("eps/linear", 5, 0.33), ("eps/linear", 50, 0.096), ("v/cos", 5, 0.157), ("v/cos", 50, 0.015)],
)
def test_in_t_eulers_steps_would_leave_known_noise(name, num_steps, left):
    form, one = formulation(name), torch.ones(1, 1, dtype=torch.float64)
    x = form.path.interpolate(0 * one, one, (times := form.times(num_steps))[:1])
    for t, s in pairwise(times):
        x = euler(lambda x, t: form.path.velocity(0 * x, one, t), x, t.view(1), s.view(1))
    assert x.item() == pytest.approx(left, rel=0.02)


def sampled_covariance(form, num_steps):
    """The flow is linear: two starts tell the covariance of all, without any chance."""
    starts = form.path.beginning(torch.eye(2, dtype=torch.float64))
    field = form.field(Ideal(form, COVARIANCE))
    ends = integrate(field, starts, form.times(num_steps), path=form.path)
    return ends.T @ ends


@pytest.mark.parametrize("name", [*PAIRS, "edm/rf"])
def test_sampling_recovers_the_covariance_of_the_data(name):
    """Up to what starting from noise alone leaves, in closed form: below 0.5 %."""
    form = formulation(name)
    last = form.path.coefficients(torch.tensor(form.path.max_time, dtype=torch.float64))
    eye = torch.eye(2, dtype=torch.float64)
    begun = form.path.beginning(torch.ones(1, 1)).item() ** 2
    left = begun * torch.linalg.inv(last.alpha**2 * COVARIANCE + last.sigma**2 * eye)
    assert (left - eye).abs().max() < 5e-3
    errors = [
        (sampled_covariance(form, n) - COVARIANCE @ left).abs().max().item() for n in (32, 64)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.25)  # Euler's order
    extrapolated = 2 * sampled_covariance(form, 64) - sampled_covariance(form, 32)
    torch.testing.assert_close(extrapolated, COVARIANCE @ left, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", TABLE_1)
def test_networks_see_moderate_numbers_at_both_ends(name):
    form = formulation(name)
    data, noise = torch.randn(2, 51, 500, generator=torch.Generator().manual_seed(0))
    for t in (form.times(50).float(), form.density.quantile(torch.linspace(0, 1, 51).double())):
        x_in, t_in = form.network_inputs(form.path.interpolate(data, noise, t), t)
        assert ((x_in.std(dim=1) > 0.6) & (x_in.std(dim=1) < 2.2)).all()
        assert ((t_in >= -1.6) & (t_in <= 1.1)).all()
        target = form.prediction.target(form.path, data, noise, t)
        assert (target.std(dim=1) < 2.2).all()


def test_sampling_times_begin_where_the_path_does():
    assert formulation("rf").times(9, 3.0).equal(formulation("rf/cosmap").times(9, 3.0))
    assert formulation("rf").times(9)[0] == formulation("eps/linear").times(9)[0] == 1
    assert formulation("v/cos").times(10).tolist() == pytest.approx(
        [0.98 * (1 - i / 10) for i in range(11)]
    )
    sigma = 80 * formulation("edm/rf").times(10)
    assert (sigma[0].item(), sigma[-2].item(), sigma[-1].item()) == pytest.approx((80, 0.002, 0))
    assert formulation("edm/rf").times(10, 1.0, "uniform")[5] == 0.5
    with pytest.raises(ValueError, match="EDM's noise levels, which v/cos has not"):
        formulation("v/cos").times(9, 1.0, "karras")


def test_the_papers_time_is_a_quantile_for_edm_alone():
    u = torch.tensor([0.125, 0.5, 0.875], dtype=torch.float64)
    for name in TABLE_1:
        level = formulation(name).level(u)
        if not name.startswith("edm"):
            assert level.equal(u)
    assert (80 * formulation("edm/rf").level(u)).tolist() == pytest.approx([1 / 7, 1, 7])
    assert (80 * formulation("edm/cos").level(u)).tolist() == pytest.approx(
        torch.tan(math.pi / 2 * u).tolist()
    )


@pytest.mark.parametrize("name", PAIRS)
def test_velocity_errors_compare_formulations(name):
    """Whoever takes the data for 0.3 x / alpha errs alike, by what rf's loss is of it."""
    form, rf = formulation(name), formulation("rf")
    data, noise = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0)).double().unbind()

    def errors(form):
        t = times_of(form)
        x, c = form.path.interpolate(data, noise, t), form.path.coefficients_like(t, data)
        p, q = form.prediction.mixture(c)
        taken = 0.3 * x / c.alpha
        output = p * taken + q * (x - c.alpha * taken) / c.sigma
        return form.velocity_error(output, data, noise, t), form.loss(output, data, noise, t)

    torch.testing.assert_close(errors(form)[0], errors(rf)[1], rtol=1e-6, atol=0)
