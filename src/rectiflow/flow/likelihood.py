"""Likelihood of data under a flow, by the instantaneous change of variables.

Along dx/dt = velocity the log density of what is carried changes by -div velocity per unit of time
(arXiv:1806.07366, Eq. 8; arXiv:2011.13456, Eq. 39), so from data at t = 0 to noise at `max_time`

    log p(data) = log p(x at max_time) + integral of div velocity dt.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.flow.paths import Path, RectifiedFlow, Sample
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.steps import Solver, Velocity

Divergence = Callable[[Velocity, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(velocity, x, t) -> velocity at x, and its divergence, shape (batch,)."""


def log_likelihood(
    velocity: Velocity,
    data: Sample,
    times: Float[Tensor, " times"],
    *,
    divergence: Divergence | None = None,
    path: Path | None = None,
    solver: Solver = SOLVERS["rk4"],
) -> Float[Tensor, " batch"]:
    """Log density of each sample, in nats.

    The density at the end is that of what sampling begins with. Where the path still holds some
    data at `max_time`, that is not quite the density which the flow carries there.

    Args:
        velocity: Field to follow; each sample's velocity depends on that sample alone.
        data: Samples, float64 where precision matters.
        times: Rising, from 0 (or from where the data is noised to) to the path's `max_time`.
        divergence: How the trace of the Jacobian is found; `exact_divergence` by default.
        path: Path of the flow; rectified flow by default.
        solver: Method of integration that goes from data to noise.

    Raises:
        ValueError: If the times do not rise to `max_time`, or the solver cannot follow them.
    """
    path, divergence = path or RectifiedFlow(), divergence or exact_divergence
    if not bool((times[1:] > times[:-1]).all()) or abs(times[-1].item() - path.max_time) > 1e-6:
        raise ValueError(
            f"times must rise to max_time {path.max_time}, got {times[0].item()} to "
            f"{times[-1].item()}"
        )

    def both(state: Tensor, t: Tensor) -> Tensor:
        x = state[:, 1:].view_as(data)
        v, trace = divergence(velocity, x, t)
        return torch.cat([trace[:, None], v.flatten(1)], dim=1)

    start = torch.cat([data.new_zeros(len(data), 1), data.flatten(1)], dim=1)
    end = integrate(both, start, times, solver, path=path)
    return end[:, 0] + _log_density_of_beginning(end[:, 1:], path)


def exact_divergence(velocity: Velocity, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The trace of the Jacobian, one backward pass for each entry of a sample."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x, t)
        rows = v.flatten(1)
        trace = rows.new_zeros(len(rows))
        for i in range(rows.shape[1]):
            (gradient,) = torch.autograd.grad(rows[:, i].sum(), x, retain_graph=True)
            trace = trace + gradient.flatten(1)[:, i]
    return v.detach(), trace


def hutchinson_divergence(probes: Float[Tensor, "probes batch *sample"]) -> Divergence:
    """Hutchinson's estimate of the trace: the mean of probe . Jacobian probe (arXiv:1810.01367).

    Unbiased where probes have mean 0 and covariance 1; one backward pass for each probe. They stay
    the same for a whole integration, so that the solver follows one smooth equation.

    Args:
        probes: Such as `rademacher` draws.
    """

    def divergence(velocity: Velocity, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = velocity(x, t)
            traces = []
            for probe in probes:
                (pulled,) = torch.autograd.grad((v * probe).sum(), x, retain_graph=True)
                traces.append((pulled * probe).flatten(1).sum(dim=1))
        return v.detach(), torch.stack(traces).mean(dim=0)

    return divergence


def rademacher(num: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """`num` probes of -1 and 1 for each sample of `like`; drawn where the generator lives."""
    shape = (num, *like.shape)
    bits = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return (2 * bits - 1).to(like)


def _log_density_of_beginning(x: Tensor, path: Path) -> Tensor:
    """Of rows (batch, entries) under `path.beginning`, a multiple of standard normal noise."""
    scale = path.beginning(x.new_ones(1, 1)).item()
    entries = (x / scale).square() + math.log(2 * math.pi) + 2 * math.log(scale)
    return -entries.sum(dim=1) / 2
