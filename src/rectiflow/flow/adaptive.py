"""An adaptive solver: torchdiffeq's dopri5, the only place that imports it (extra `ode`)."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rectiflow.flow.paths import SIGMA_MAX, VarianceExploding
from rectiflow.flow.steps import Integration, Velocity, column


class Dopri5:
    """One integration by the Runge-Kutta pair of orders 5 and 4 of Dormand and Prince.

    It takes steps of its own between two times, as many as the tolerance needs, and asks for the
    velocity 6 times in each, at the end too.

    The error of a step is the largest of the batch, each sample's the root mean square over its
    entries. So every sample is within the tolerance, but which steps are taken depends on all of
    them: what must not depend on a batch is integrated one sample at a time.

    On EDM's path it works on x / (1 + sigma) over sigma / (1 + sigma), which are x and t of
    rectified flow: an error relative to noise of 80 would be no bound for data of 1.

    Raises:
        ValueError: If torchdiffeq is not installed.
    """

    def __init__(self, integration: Integration) -> None:
        require_torchdiffeq()
        self._tolerance = integration.tolerance
        self._is_edm = isinstance(integration.path, VarianceExploding)

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if not self._is_edm:
            return self._solved(velocity, x, t, s)
        start, end = SIGMA_MAX * t, SIGMA_MAX * s
        y = x / column(1 + start, x)
        y = self._solved(_rectified(velocity), y, start / (1 + start), end / (1 + end))
        return y * column(1 + end, x)

    def _solved(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        from torchdiffeq import odeint

        def field(time: Tensor, state: Tensor) -> Tensor:
            return velocity(state, time.to(t).expand(len(state)))

        def norm(error: Tensor) -> Tensor:
            return error.reshape(len(x), -1).square().mean(dim=1).amax().sqrt()

        ends = torch.stack([t[0], s[0]])
        tolerance = {"rtol": self._tolerance, "atol": self._tolerance}
        found: Any = odeint(field, x, ends, method="dopri5", options={"norm": norm}, **tolerance)
        return found[-1]


def _rectified(velocity: Velocity) -> Velocity:
    """A field on EDM's path as one of y = x / (1 + sigma) over u = sigma / (1 + sigma)."""

    def field(y: Tensor, u: Tensor) -> Tensor:
        sigma = u / (1 - u)
        size = column(1 + sigma, y)
        x = size * y
        slope = velocity(x, sigma / SIGMA_MAX) / SIGMA_MAX  # dx / dsigma
        return size * slope - x

    return field


def require_torchdiffeq() -> None:
    """Say what to install where torchdiffeq is missing.

    Raises:
        ValueError: If it is.
    """
    if find_spec("torchdiffeq") is None:
        raise ValueError("solver dopri5 needs torchdiffeq: pip install 'rectiflow[ode]'")
