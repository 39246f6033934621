"""The solvers by name, and integration along a grid of times."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from rectiflow.flow.adaptive import Dopri5
from rectiflow.flow.multistep import DpmSolver2M, UniPc, half_log_snr, minus_log_sigma
from rectiflow.flow.paths import Path, RectifiedFlow
from rectiflow.flow.steps import (
    TOLERANCE,
    AfterStep,
    Draw,
    Integration,
    Solver,
    Velocity,
    euler,
    heun,
    midpoint,
    one_step,
    rk4,
)
from rectiflow.flow.stochastic import ReverseSde

EULER = one_step(euler, 0)
SOLVERS: dict[str, Solver] = {
    "euler": EULER,
    "midpoint": one_step(midpoint, 0, 0.5),
    "heun": one_step(heun, 0, 1),
    "rk4": one_step(rk4, 0, 0.5, 0.5, 1),
    "dpmpp_2m": Solver(partial(DpmSolver2M, minus_log_sigma), (0,)),  # the reference's name for it
    "dpmpp_2m_snr": Solver(partial(DpmSolver2M, half_log_snr), (0,)),
    "unipc_2": Solver(partial(UniPc, 2), (0,)),
    "unipc_3": Solver(partial(UniPc, 3), (0,)),
    "dopri5": Solver(Dopri5, ()),
    "sde": Solver(ReverseSde, (0,), is_stochastic=True),
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
    draw: Draw | None = None,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Carry `x` from times[0] to times[-1].

    Args:
        velocity: Field to follow.
        x: State at times[0], shape (batch, ...), float32 or float64.
        times: Grid of shape (num_steps + 1,), in either direction where the solver can. An
            adaptive solver looks at its ends only.
        solver: Method of integration.
        path: Path that the velocity belongs to; rectified flow by default. Only methods that
            work with predicted data look at it.
        after_step: What to make of x after every step, before the next.
        draw: Source of noise; only stochastic methods look at it.
        tolerance: Error allowed to an adaptive method, relative and absolute; only it looks at it.

    Returns:
        State at times[-1], same shape and dtype as `x`.

    Raises:
        ValueError: If the solver cannot follow these times, lacks noise, or has no steps that
            something could be done after.
    """
    if solver.is_adaptive:
        if after_step is not None:
            raise ValueError(
                "an adaptive solver takes steps of its own: nothing can be done after each step of "
                "the grid, as keeping a part of a picture needs"
            )
        times = times[[0, -1]]
    step = solver.begin(Integration(path or RectifiedFlow(), times, draw, tolerance))
    times = times.to(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    for t, s in pairwise(times):
        start, end = t.expand(x.shape[0]), s.expand(x.shape[0])
        x = step(velocity, x, start, end)
        x = x if after_step is None else after_step(x, end)
    return x
