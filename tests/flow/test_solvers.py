"""Solvers converge at their stated order on equations with known solutions."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from rectiflow.flow.multistep import polynomial_weights
from rectiflow.flow.paths import Cosine, DdpmLinear, RectifiedFlow, VarianceExploding
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import time_grid

ORDER = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "dpmpp_2m": 2, "dpmpp_2m_snr": 2}
ORDER |= {"unipc_2": 3, "unipc_3": 4}  # the corrector adds one to the predictor's
CALLS = dict.fromkeys(ORDER, 1) | {"midpoint": 2, "heun": 2, "rk4": 4}
ONE_STEP = ["euler", "midpoint", "heun", "rk4"]
DPMPP = ["dpmpp_2m", "dpmpp_2m_snr"]
MULTISTEP = [*DPMPP, "unipc_2", "unipc_3"]
FIXED = [*ONE_STEP, *MULTISTEP]  # steps of the grid, no noise
MEAN, STD = 1.5, 0.4  # of Gaussian data


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def even(start, end, num_steps):
    return torch.linspace(start, end, num_steps + 1, dtype=torch.float64)


def spread(t):
    """Standard deviation of x_t on Gaussian data."""
    return ((1 - t) ** 2 * STD**2 + t**2) ** 0.5


def gaussian_velocity(x, t):
    """Of data Normal(MEAN, STD^2): the quantiles of x_t move with its mean and spread."""
    t = t.view(-1, 1)
    d_spread = (t - (1 - t) * STD**2) / spread(t)
    return -MEAN + d_spread / spread(t) * (x - (1 - t) * MEAN)


def ones(x):
    """No noise at all, but where some is asked for."""
    return torch.ones_like(x)


def gaussian_flow(z, t):
    """Where the flow has the z-quantile at time t."""
    return (1 - t) * MEAN + spread(t) * z


def gaussian_data(x, t):
    """Mean of the data given x_t."""
    t = t.view(-1, 1)
    return MEAN + STD**2 * (1 - t) / spread(t) ** 2 * (x - (1 - t) * MEAN)


def error_on_gaussian(name, times):
    z = doubles(-1.3, 0.2, 2.1).view(-1, 1)
    end = integrate(gaussian_velocity, gaussian_flow(z, times[0]), times, SOLVERS[name])
    return (end - gaussian_flow(z, times[-1])).abs().max().item()


def observed_order(error, num_steps=64):
    return math.log2(error(num_steps) / error(2 * num_steps))


@pytest.mark.parametrize("name", ONE_STEP)
def test_order_of_convergence(name):
    """dx/dt = x cos t, x(0) = 1, so x(1) = exp(sin 1)."""

    def error(num_steps):
        start = torch.ones(2, 1, dtype=torch.float64)
        x = integrate(
            lambda x, t: x * t.cos().view(-1, 1), start, even(0, 1, num_steps), SOLVERS[name]
        )
        return (x - math.exp(math.sin(1))).abs().max().item()

    assert observed_order(error) == pytest.approx(ORDER[name], abs=0.1)


@pytest.mark.parametrize("name", FIXED)
def test_order_of_convergence_on_the_flow_of_gaussian_data(name):
    def inside(num_steps):
        return error_on_gaussian(name, even(0.9, 0.1, num_steps))

    order = 3 if name == "midpoint" else ORDER[name]  # it gains one on this equation
    assert observed_order(inside, 128) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("path", [Cosine(), DdpmLinear(), VarianceExploding()], ids=str)
@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "rk4", "unipc_2"])
def test_order_of_convergence_on_every_path(name, path):
    """Where the log SNR falls evenly, so that no step is much longer than another."""

    def velocity(x, t):
        c = path.coefficients(t.view(-1, 1))
        square = (c.alpha * STD) ** 2 + c.sigma**2
        rate = (c.alpha * c.d_alpha * STD**2 + c.sigma * c.d_sigma) / square
        return c.d_alpha * MEAN + rate * (x - c.alpha * MEAN)

    def flow(z, t):
        c = path.coefficients(t)
        return c.alpha * MEAN + ((c.alpha * STD) ** 2 + c.sigma**2).sqrt() * z

    def error(num_steps):
        times, z = path.time_at(even(-3, 3, num_steps)), doubles(-1.3, 0.2, 2.1).view(-1, 1)
        end = integrate(velocity, flow(z, times[0]), times, SOLVERS[name], path=path)
        return (end - flow(z, times[-1])).abs().max().item()

    order = 3 if name == "midpoint" else ORDER[name]  # it gains one on this equation
    assert observed_order(error, 32) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", DPMPP)
def test_steps_of_first_order_at_the_ends_do_not_spoil_the_second_order(name):
    """Near the ends of an even grid the steps in log SNR are long: the error of step i from there
    falls as 1 / (i n^2), so that n steps lose log(n): at 128 steps an order of 1.81."""

    def whole(num_steps):
        return error_on_gaussian(name, time_grid(num_steps))

    expected = 2 - math.log2(math.log(256) / math.log(128))
    assert observed_order(whole, 128) == pytest.approx(expected, abs=0.1)
    assert whole(256) < error_on_gaussian("euler", time_grid(256)) / 10


def test_unipc_is_of_second_order_on_whole_grids_and_better_the_higher_its_order():
    """Its first and last step there are of first order and not corrected."""

    def errors(name):
        return [error_on_gaussian(name, time_grid(num_steps)) for num_steps in (128, 256)]

    by_order = [errors(name) for name in ("dpmpp_2m_snr", "unipc_2", "unipc_3")]
    for coarse, fine in by_order[1:]:
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)
    assert by_order[0][1] > 2 * by_order[1][1] > 4 * by_order[2][1]


@pytest.mark.parametrize("name", FIXED)
def test_a_step_asks_as_often_as_its_solver_says(name):
    calls = []

    def velocity(x, t):
        calls.append(t)
        return x

    integrate(velocity, torch.ones(3, 2), time_grid(5), SOLVERS[name])
    assert len(calls) == 5 * CALLS[name] == 5 * len(SOLVERS[name].stages)
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in calls)


@pytest.mark.parametrize("name", [*FIXED, "dopri5"])
@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_constant_velocity_is_followed_exactly(name, num_steps):
    """A straight path needs one step: from noise, minus the velocity, to data."""
    data, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    sample = integrate(lambda x, t: noise - data, noise, time_grid(num_steps), SOLVERS[name])
    torch.testing.assert_close(sample, data)


@pytest.mark.parametrize("name", FIXED)
def test_times_that_the_network_sees_are_those_of_the_grid(name):
    seen = []
    grid = time_grid(4, shift=3.0)
    integrate(lambda x, t: seen.append(t[0].item()) or x, torch.ones(1, 1), grid, SOLVERS[name])
    stages = torch.tensor(
        {"heun": [0, 1], "midpoint": [0, 0.5], "rk4": [0, 0.5, 0.5, 1]}.get(name, [0])
    )
    expected = grid[:-1, None] + (grid[1:] - grid[:-1])[:, None] * stages
    torch.testing.assert_close(torch.tensor(seen), expected.flatten().float())
    assert SOLVERS[name].stages == tuple(stages.tolist())


def reference_log_sigma(x, sigmas):
    """DPM-Solver++(2M) over l = -log sigma, written out in float64 from the formulas.

    x' = e^-h x + (1 - e^-h) ((1 + 1/2r) D - 1/2r D_last), h = l' - l, r = h_last / h.
    """
    last, last_h = None, None
    for sigma, following in pairwise(sigmas.tolist()):
        data = gaussian_data(x, doubles(sigma).expand(len(x)))
        if following == 0:
            return data
        h = math.log(sigma / following)
        if last is None:
            mixed = data
        else:
            r = last_h / h
            mixed = (1 + 1 / (2 * r)) * data - last / (2 * r)
        x = math.exp(-h) * x + (1 - math.exp(-h)) * mixed
        last, last_h = data, h
    return x


def reference_log_snr(x, sigmas):
    """arXiv:2211.01095, Alg. 2 with lambda = log(alpha / sigma), alpha = 1 - sigma."""
    last, last_h = None, None
    for sigma, following in pairwise(sigmas.tolist()):
        data = gaussian_data(x, doubles(sigma).expand(len(x)))
        if following == 0:
            return data
        here = math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
        h = math.log((1 - following) / following) - here
        if last is None:
            mixed = data
        else:
            r = last_h / h
            mixed = (1 + 1 / (2 * r)) * data - last / (2 * r)
        x = following / sigma * x - (1 - following) * math.expm1(-h) * mixed
        last, last_h = data, h
    return x


@pytest.mark.parametrize("grid", ["uniform", "sd3"])
@pytest.mark.parametrize(
    ("name", "reference"),
    [("dpmpp_2m", reference_log_sigma), ("dpmpp_2m_snr", reference_log_snr)],
)
def test_the_multistep_solvers_are_the_formulas(name, reference, grid):
    times = time_grid(9, 3.0, grid)
    start = doubles(-1.0, 0.3, 2.0).view(-1, 1)
    ours = integrate(gaussian_velocity, start, times, SOLVERS[name])
    torch.testing.assert_close(ours, reference(start, times), atol=1e-12, rtol=0)


def test_the_two_forms_differ():
    times, start = time_grid(9), doubles(-1.0, 2.0).view(-1, 1)
    ends = [integrate(gaussian_velocity, start, times, SOLVERS[name]) for name in MULTISTEP]
    assert (ends[0] - ends[1]).abs().min() > 1e-4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("num_steps", [2, 7, 20])
def test_the_log_snr_form_is_that_of_diffusers(num_steps):
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(num_steps)
    x = start = torch.tensor([[-1.0], [0.3], [2.0]])
    for i, timestep in enumerate(scheduler.timesteps):
        velocity = gaussian_velocity(x, scheduler.sigmas[i].expand(3))
        x = scheduler.step(velocity, timestep, x).prev_sample
    ours = integrate(gaussian_velocity, start, scheduler.sigmas, SOLVERS["dpmpp_2m_snr"])
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("num_steps", [2, 3, 7, 20])
def test_unipc_is_that_of_diffusers(order, num_steps):
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", solver_order=order
    )
    scheduler.set_timesteps(num_steps)
    x = start = torch.tensor([[-1.0], [0.3], [2.0]])
    for i, timestep in enumerate(scheduler.timesteps):
        velocity = gaussian_velocity(x, scheduler.sigmas[i].expand(3))
        x = scheduler.step(velocity, timestep, x).prev_sample
    ours = integrate(gaussian_velocity, start, scheduler.sigmas, SOLVERS[f"unipc_{order}"])
    torch.testing.assert_close(ours, x, atol=2e-6, rtol=0)


@pytest.mark.parametrize("length", [1e-4, 0.3, 0.999, 1.001, 6.0])
def test_weights_of_unipc_integrate_polynomials_exactly(length):
    """Against 200 panels of Simpson's rule."""
    nodes = [1.0, 0.0, -0.7, -2.1]
    u = torch.linspace(0, 1, 401, dtype=torch.float64)
    rule = torch.full_like(u, 2 / 1200)
    rule[1::2] = 4 / 1200
    rule[0] = rule[-1] = 1 / 1200
    cubic = lambda u: 0.3 - u + 2 * u**2 - 0.7 * u**3  # noqa: E731
    expected = (rule * length * torch.exp(length * (u - 1)) * cubic(u)).sum().item()
    weights = polynomial_weights(length, nodes)
    found = sum(w * cubic(r) for w, r in zip(weights, nodes, strict=True))
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", MULTISTEP)
def test_the_last_step_returns_the_predicted_data(name):
    seen = []

    def velocity(x, t):
        seen.append((x, t))
        return gaussian_velocity(x, t)

    end = integrate(velocity, doubles(0.7).view(-1, 1), time_grid(6), SOLVERS[name])
    torch.testing.assert_close(end, gaussian_data(*seen[-1]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", MULTISTEP)
def test_integrations_do_not_remember_each_other(name):
    run = partial(integrate, gaussian_velocity, doubles(0.7).view(-1, 1), time_grid(4))
    assert run(SOLVERS[name]).equal(run(SOLVERS[name]))


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep_solvers_cannot_start_from_data(name):
    with pytest.raises(ValueError, match=r"every time but the last must be > 0, got 0\.0 to 1\.0"):
        integrate(gaussian_velocity, torch.ones(1, 1), even(0, 1, 2), SOLVERS[name])


@pytest.mark.parametrize("name", ["unipc_2", "sde"])
def test_some_solvers_go_from_noise_to_data_only(name):
    with pytest.raises(ValueError, match=r"times must fall, got 0\.1.* to 0\.9"):
        integrate(gaussian_velocity, torch.ones(1, 1), even(0.1, 0.9, 2), SOLVERS[name], draw=ones)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_the_adaptive_solver_meets_its_tolerance_with_steps_of_its_own(tolerance):
    calls, z = [], doubles(-1.3, 0.2, 2.1).view(-1, 1)

    def velocity(x, t):
        calls.append(t)
        return gaussian_velocity(x, t)

    def end(num_steps):
        times = time_grid(num_steps)
        start = gaussian_flow(z, times[0])
        return integrate(velocity, start, times, SOLVERS["dopri5"], tolerance=tolerance)

    error = (end(1) - gaussian_flow(z, doubles(0.0))).abs().max().item()
    assert tolerance / 100 < error < 100 * tolerance
    assert end(7).equal(end(1))  # the grid between the ends does not enter
    assert all(t.shape == (3,) and t.dtype == torch.float64 for t in calls)


def test_a_stricter_tolerance_is_paid_in_calls_and_every_sample_meets_it():
    """One hard sample among easy ones: the error is the worst sample's, not the mean's."""

    def run(tolerance, num_easy):
        calls, rates = [], torch.tensor([9.0, *[0.0] * num_easy], dtype=torch.float64).view(-1, 1)
        field = lambda x, t: calls.append(t) or rates * torch.cos(9 * t).view(-1, 1)  # noqa: E731
        start = torch.zeros(1 + num_easy, 1, dtype=torch.float64)
        end = integrate(field, start, even(0, 1, 1), SOLVERS["dopri5"], tolerance=tolerance)
        return len(calls), abs(end[0].item() - math.sin(9))

    assert run(1e-9, 0)[0] > 2 * run(1e-4, 0)[0]
    assert run(1e-6, 999) == pytest.approx(run(1e-6, 0))


def test_the_adaptive_solver_says_what_it_lacks(monkeypatch):
    grid, x = time_grid(2), torch.ones(1, 1)
    with pytest.raises(ValueError, match="takes steps of its own: nothing can be done after each"):
        integrate(gaussian_velocity, x, grid, SOLVERS["dopri5"], after_step=lambda x, s: x)
    monkeypatch.setattr("rectiflow.flow.adaptive.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs torchdiffeq: pip install 'rectiflow\[ode\]'"):
        integrate(gaussian_velocity, x, grid, SOLVERS["dopri5"])


@pytest.mark.parametrize("name", ONE_STEP)
def test_what_is_done_after_a_step_is_what_the_next_one_starts_from(name):
    told = []

    def doubled(x, s):
        told.append(s.tolist())
        return 2 * x

    end = integrate(
        lambda x, t: torch.zeros_like(x),
        torch.ones(2, 1),
        time_grid(4),
        SOLVERS[name],
        after_step=doubled,
    )
    assert end.flatten().tolist() == [16, 16]
    assert told == [[0.75] * 2, [0.5] * 2, [0.25] * 2, [0.0] * 2]


def test_a_path_of_ones_own_reaches_the_solver():
    """Data is read from a velocity by the path, so a wrong path ends elsewhere."""

    class Curved(RectifiedFlow):
        def coefficients(self, t):
            angle = math.pi / 2 * t
            alpha, sigma = angle.cos(), angle.sin()
            return type(super().coefficients(t))(
                alpha, sigma, -math.pi / 2 * sigma, math.pi / 2 * alpha
            )

    path, data, noise = Curved(), doubles(2.0).view(1, 1), doubles(-0.5).view(1, 1)

    def velocity(x, t):
        return path.velocity(data, noise, t)

    times = even(1, 0.2, 5)
    end = integrate(velocity, noise, times, SOLVERS["dpmpp_2m"], path=path)
    expected = path.interpolate(data, noise, times[-1:])
    torch.testing.assert_close(end, expected)
    wrong = integrate(velocity, noise, times, SOLVERS["dpmpp_2m"])
    assert (wrong - expected).abs().item() > 1e-3


def test_integration_tracks_no_gradient():
    weight = torch.ones(1, requires_grad=True)
    assert not integrate(lambda x, t: weight * x, torch.ones(1, 1), time_grid(2)).requires_grad
