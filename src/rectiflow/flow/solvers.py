"""ODE solvers: a step carries x from time t to time s along dx/dt = velocity(x, t).

Solvers know nothing of text, guidance or networks. Conditioning is bound into the velocity
beforehand, so every solver works with every model and each is tested on exact equations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from rectiflow.flow.paths import Coefficients, Path, RectifiedFlow

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (batch, ...), t (batch,)) -> dx/dt
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]  # (velocity, x, t, s) -> x at s
AfterStep = Callable[[Tensor, Tensor], Tensor]  # (x at s, s (batch,)) -> x to go on from


@dataclass(frozen=True)
class Solver:
    """A method of integration.

    Args:
        begin: Makes the step of one integration along a path and a grid of times. What a method
            remembers from step to step lives in that step, never here.
        calls_per_step: How often a step asks for the velocity.
    """

    begin: Callable[[Path, Tensor], Step]
    calls_per_step: int


def euler(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """First order, 1 evaluation per step."""
    return x + _like(s - t, x) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Second order, 2 evaluations per step."""
    middle = euler(velocity, x, t, (t + s) / 2)
    return x + _like(s - t, x) * velocity(middle, (t + s) / 2)


def heun(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Second order, 2 evaluations per step (EDM, arXiv:2206.00364, Alg. 1).

    Departure: EDM falls back to Euler for the last step, whose right-hand side is singular at
    sigma = 0 there. The velocity of a rectified flow is finite at t = 0, so every step is Heun.
    """
    start = velocity(x, t)
    end = velocity(x + _like(s - t, x) * start, s)
    return x + _like(s - t, x) * (start + end) / 2


class DpmSolver2M:
    """One integration by DPM-Solver++(2M) (arXiv:2211.01095, Alg. 2).

    Second order, 1 evaluation per step. The step integrates the linear part of the equation
    exactly, x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) data, with the
    predicted data carried to the middle of the step along the line through this and the last
    prediction. The line is drawn over a `coordinate` of the path; that is all in which the forms
    differ:

    - `half_log_snr`, log(alpha / sigma), is the paper's. At t = 1 it is infinite, so the line
      through a prediction there is flat: the second step of a whole grid is of first order too.
    - `minus_log_sigma`, -log(sigma), is what the released SD3.5 sampler uses (k-diffusion's
      `dpmpp_2m` handed the sigma of the flow). It is finite at t = 1.

    The first step has no last prediction, and at s = 0 either coordinate is infinite: both steps
    are of first order, as in the reference, and the last one returns the predicted data. On a
    rectified flow a step of first order is Euler's, so that whole grids of up to 2 steps over log
    sigma, or 3 over log SNR, are Euler's as well.

    Raises:
        ValueError: If a step starts at t = 0, where there is no noise to scale down.
    """

    def __init__(
        self, coordinate: Callable[[Coefficients], Tensor], path: Path, times: Tensor
    ) -> None:
        if not bool((times[:-1] > 0).all()):
            raise ValueError(
                f"DPM-Solver++ cannot leave t = 0: every time but the last must be > 0, "
                f"got {times[0].item()} to {times[-1].item()}"
            )
        self._coordinate, self._path = coordinate, path
        self._last: tuple[Tensor, Tensor] | None = None  # data predicted there, and its coordinate

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        data = self._path.data_from_velocity(velocity(x, t), x, t)
        here = self._path.coefficients(_like(t, x))
        there = self._path.coefficients(_like(s, x))
        ratio = there.sigma / here.sigma
        middle = self._carried_to_middle(data, self._coordinate(here), self._coordinate(there))
        return ratio * x + (there.alpha - ratio * here.alpha) * middle

    def _carried_to_middle(self, data: Tensor, here: Tensor, there: Tensor) -> Tensor:
        last, self._last = self._last, (data, here)
        if last is None:
            return data
        last_data, last_place = last
        weight = (there - here) / (2 * (here - last_place))
        return data + torch.where(there.isfinite(), weight, 0) * (data - last_data)


def half_log_snr(c: Coefficients) -> Tensor:
    """log(alpha / sigma); -inf where alpha is 0, +inf where sigma is 0."""
    return c.alpha.log() - c.sigma.log()


def minus_log_sigma(c: Coefficients) -> Tensor:
    """-log(sigma); +inf where sigma is 0."""
    return -c.sigma.log()


def _one_step(step: Step, calls_per_step: int) -> Solver:
    """A method that remembers nothing."""
    return Solver(begin=lambda path, times: step, calls_per_step=calls_per_step)


EULER = _one_step(euler, 1)
SOLVERS: dict[str, Solver] = {
    "euler": EULER,
    "midpoint": _one_step(midpoint, 2),
    "heun": _one_step(heun, 2),
    "dpmpp_2m": Solver(partial(DpmSolver2M, minus_log_sigma), 1),  # the reference's name for it
    "dpmpp_2m_snr": Solver(partial(DpmSolver2M, half_log_snr), 1),
}


@torch.no_grad()
def integrate(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    solver: Solver = EULER,
    *,
    path: Path | None = None,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Carry `x` from times[0] to times[-1].

    Args:
        velocity: Field to follow.
        x: State at times[0], shape (batch, ...), float32 or float64.
        times: Grid of shape (num_steps + 1,), in either direction where the solver can.
        solver: Method of integration.
        path: Path that the velocity belongs to; rectified flow by default. Only methods that
            work with predicted data look at it.
        after_step: What to make of x after every step, before the next.

    Returns:
        State at times[-1], same shape and dtype as `x`.

    Raises:
        ValueError: If the solver cannot follow these times.
    """
    step = solver.begin(path or RectifiedFlow(), times)
    times = times.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    for t, s in pairwise(times):
        start, end = t.expand(x.shape[0]), s.expand(x.shape[0])
        x = step(velocity, x, start, end)
        x = x if after_step is None else after_step(x, end)
    return x


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)  # for the solver's sums, not for networks
