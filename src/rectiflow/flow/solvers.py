"""ODE solvers: a step carries x from time t to time s along dx/dt = velocity(x, t).

Solvers know nothing of text, guidance or networks. Conditioning is bound into the velocity
beforehand, so every solver works with every model and each is tested on exact equations.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (batch, ...), t (batch,)) -> dx/dt
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]  # (velocity, x, t, s) -> x at s


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


SOLVERS: dict[str, Step] = {"euler": euler, "midpoint": midpoint, "heun": heun}


@torch.no_grad()
def integrate(velocity: Velocity, x: Tensor, times: Tensor, step: Step = euler) -> Tensor:
    """Carry `x` from times[0] to times[-1].

    Args:
        velocity: Field to follow.
        x: State at times[0], shape (batch, ...), float32 or float64.
        times: Grid of shape (num_steps + 1,), in either direction.
        step: Solver.

    Returns:
        State at times[-1], same shape and dtype as `x`.
    """
    times = times.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    for t, s in pairwise(times):
        x = step(velocity, x, t.expand(x.shape[0]), s.expand(x.shape[0]))
    return x


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)  # a step length, not a time
