"""An adaptive solver: torchdiffeq's dopri5, the only place that imports it (extra `ode`)."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rectiflow.flow.steps import Integration, Velocity


class Dopri5:
    """One integration by the Runge-Kutta pair of orders 5 and 4 of Dormand and Prince.

    It takes steps of its own between two times, as many as the tolerance needs, and asks for the
    velocity 6 times in each, at the end too.

    The error of a step is the largest of the batch, each sample's the root mean square over its
    entries. So every sample is within the tolerance, but which steps are taken depends on all of
    them: what must not depend on a batch is integrated one sample at a time.

    Raises:
        ValueError: If torchdiffeq is not installed.
    """

    def __init__(self, integration: Integration) -> None:
        require_torchdiffeq()
        self._tolerance = integration.tolerance

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        from torchdiffeq import odeint

        def field(time: Tensor, state: Tensor) -> Tensor:
            return velocity(state, time.to(t).expand(len(state)))

        def norm(error: Tensor) -> Tensor:
            return error.reshape(len(x), -1).square().mean(dim=1).amax().sqrt()

        ends = torch.stack([t[0], s[0]])
        tolerance = {"rtol": self._tolerance, "atol": self._tolerance}
        found: Any = odeint(field, x, ends, method="dopri5", options={"norm": norm}, **tolerance)
        return found[-1]


def require_torchdiffeq() -> None:
    """Say what to install where torchdiffeq is missing.

    Raises:
        ValueError: If it is.
    """
    if find_spec("torchdiffeq") is None:
        raise ValueError("solver dopri5 needs torchdiffeq: pip install 'rectiflow[ode]'")
