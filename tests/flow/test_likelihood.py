"""The likelihood of Gaussian data is known in closed form, on every path."""

from itertools import product

import pytest
import torch
from torch.distributions import MultivariateNormal

from rectiflow.flow.likelihood import (
    exact_divergence,
    hutchinson_divergence,
    log_likelihood,
    rademacher,
)
from rectiflow.flow.paths import (
    Cosine,
    DdpmLinear,
    DiscreteSchedule,
    LdmLinear,
    RectifiedFlow,
    VarianceExploding,
)
from rectiflow.flow.solvers import SOLVERS
from rectiflow.flow.times import time_grid

PATHS = [RectifiedFlow(), Cosine(), LdmLinear(), DdpmLinear(), VarianceExploding()]
MEAN = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.8, 0, 0], [0.5, 0.4, 0], [-0.3, 0.6, 0.9]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T  # correlated, so that the Jacobian is not diagonal


def velocity_on(path):
    """Of Gaussian data: d_alpha E[data | x] + d_sigma E[noise | x]."""

    def velocity(x, t):
        c = path.coefficients(t[0])
        spread = c.alpha**2 * COVARIANCE + c.sigma**2 * torch.eye(3, dtype=x.dtype)
        offset = torch.linalg.solve(spread, (x.flatten(1) - c.alpha * MEAN).T).T
        data = MEAN + c.alpha * offset @ COVARIANCE
        return (c.d_alpha * data + c.d_sigma * c.sigma * offset).view_as(x)

    return velocity


@pytest.fixture
def points():
    return 1.5 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def grid(path, num_steps):
    """Rising times, dense where the path's log SNR changes fast."""
    if isinstance(path, VarianceExploding):
        return time_grid(num_steps, grid="karras").flip(0)
    power = 2 if isinstance(path, DiscreteSchedule) else 1
    return path.max_time * torch.linspace(0, 1, num_steps + 1, dtype=torch.float64) ** power


def drawn(path):
    """The law of what is sampled: that of the beginning, carried to data.

    With y = R z + mean and the covariance's eigenvectors, the flow of Gaussian data scales each
    coordinate by its share of the spread at max_time. On rectified flow that is the data's law.
    """
    c = path.coefficients(torch.tensor(path.max_time, dtype=torch.float64))
    values, vectors = torch.linalg.eigh(COVARIANCE)
    back = (values / (c.alpha**2 * values + c.sigma**2)).sqrt()
    back = vectors @ torch.diag(back) @ vectors.T
    begun = path.beginning(torch.ones(1, 1, dtype=torch.float64)).item() * back
    return MultivariateNormal(MEAN - c.alpha * back @ MEAN, begun @ begun.T)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_of_gaussian_data_it_is_the_closed_form(path, points):
    found = log_likelihood(velocity_on(path), points, grid(path, 125), path=path)
    torch.testing.assert_close(found, drawn(path).log_prob(points), atol=1e-4, rtol=0)


def test_on_rectified_flow_it_is_the_density_of_the_data(points):
    found = log_likelihood(velocity_on(RectifiedFlow()), points, grid(RectifiedFlow(), 64))
    expected = MultivariateNormal(MEAN, COVARIANCE).log_prob(points)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_samples_of_any_shape_and_any_solver_that_can_leave_data_serve(points):
    path = RectifiedFlow()
    expected = MultivariateNormal(MEAN, COVARIANCE).log_prob(points)
    for name, error in (("heun", 0.1), ("dopri5", 1e-3)):
        images = points.view(5, 1, 3, 1)
        found = log_likelihood(
            velocity_on(path), images, grid(path, 64), solver=SOLVERS[name], path=path
        )
        torch.testing.assert_close(found, expected, atol=error, rtol=0)


def test_hutchinson_s_estimate_is_exact_in_the_mean_over_all_signs(points):
    path = RectifiedFlow()
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    probes = signs[:, None, :].expand(-1, 5, -1)
    t = torch.full((5,), 0.4, dtype=torch.float64)
    velocity, trace = exact_divergence(velocity_on(path), points, t)
    estimate = hutchinson_divergence(probes)(velocity_on(path), points, t)
    torch.testing.assert_close(estimate, (velocity, trace))
    alone = [hutchinson_divergence(p[None])(velocity_on(path), points, t)[1] for p in probes]
    assert torch.stack(alone).std(dim=0).min() > 0.1  # a single probe is not enough
    jacobian = torch.func.jacrev(lambda x: velocity_on(path)(x[None], t[:1])[0])(points[0])
    torch.testing.assert_close(trace[0], jacobian.trace())


def test_hutchinson_s_likelihood_is_unbiased(points):
    """Its own spread over 400 probes says how near it should come: within 4 standard errors."""
    path, generator = RectifiedFlow(), torch.Generator().manual_seed(1)
    many = points[:1].expand(400, -1)
    probes = rademacher(1, many, generator)
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    found = log_likelihood(
        velocity_on(path), many, grid(path, 32), divergence=hutchinson_divergence(probes)
    )
    expected = MultivariateNormal(MEAN, COVARIANCE).log_prob(points[0])
    error = found.std() / 400**0.5
    assert 0.001 < error < 0.1
    assert abs(found.mean() - expected) < 4 * error


def test_it_leaves_no_graph(points):
    assert not log_likelihood(
        velocity_on(RectifiedFlow()), points, grid(RectifiedFlow(), 2)
    ).requires_grad


@pytest.mark.parametrize("times", [[1.0, 0.5, 0.0], [0.0, 0.5], [0.0, 0.0, 1.0]])
def test_times_that_do_not_lead_to_noise_are_refused(points, times):
    with pytest.raises(ValueError, match=r"times must rise to max_time 1\.0, got"):
        log_likelihood(velocity_on(RectifiedFlow()), points, torch.tensor(times))


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc_2"])
def test_solvers_that_cannot_leave_data_are_refused(points, name):
    path = RectifiedFlow()
    with pytest.raises(ValueError, match="cannot leave t = 0"):
        log_likelihood(velocity_on(path), points, grid(path, 4), solver=SOLVERS[name])
