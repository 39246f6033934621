"""Solvers that remember earlier predictions: one evaluation per step, at a higher order.

Both integrate the linear part of the equation exactly. Between t and s, on any path,

    x_s = (sigma_s / sigma_t) x_t + alpha_s (integral of e^(l - l_s) data(l) dl from l_t to l_s),

with l = log(alpha / sigma) (arXiv:2211.01095, Prop. 4.1). Only `data`, the predicted data, needs an
approximation; it is constant where the predictions agree, however the path bends.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.flow.paths import Coefficients
from rectiflow.flow.steps import Integration, Velocity, column


class DpmSolver2M:
    """One integration by DPM-Solver++(2M) (arXiv:2211.01095, Alg. 2).

    Second order, 1 evaluation per step. Each step is of the form
    x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) data, with the predicted
    data carried to the middle of the step along the line through this and the last prediction. The
    line is drawn over a `coordinate` of the path; that is all in which the forms differ:

    - `half_log_snr`, log(alpha / sigma), is the paper's. At t = 1 of a rectified flow it is
      infinite, so the line through a prediction there is flat: the second step of a whole grid is
      of first order too.
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
        self, coordinate: Callable[[Coefficients], Tensor], integration: Integration
    ) -> None:
        refuse_to_leave_data("DPM-Solver++", integration.times)
        self._coordinate, self._path = coordinate, integration.path
        self._last: tuple[Tensor, Tensor] | None = None  # data predicted there, and its coordinate

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        data = self._path.data_from_velocity(velocity(x, t), x, t)
        here = self._path.coefficients(column(t, x))
        there = self._path.coefficients(column(s, x))
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


class UniPc:
    """One integration by UniPC (arXiv:2302.04867), with predicted data and B(h) = e^h - 1.

    1 evaluation per step. UniP of order p integrates the polynomial through the last p predictions
    exactly; where the next prediction is there, UniC repeats the step with it among them, which
    raises the order by one and costs no evaluation. B(h) enters only the two cases that the paper
    leaves free (below its Theorem 3.1 a coefficient may be set to 1/2): UniP of order 2, which is
    then DPM-Solver++(2M) over log SNR, and UniC of order 1.

    The order rises by one with each prediction there is, and where the grid ends at data it falls
    to 1 towards the end, as in the authors' sampler: the last step returns the predicted data, and
    is not corrected, for there is no prediction after it. A prediction at an infinite log SNR (a
    rectified flow's at t = 1) is used for its own step only, which is of first order and not
    corrected.

    Args:
        order: Of the predictor, >= 1.
        integration: Its times fall, and all but the last are > 0.

    Raises:
        ValueError: If a step starts at t = 0, where there is no noise to scale down, or the times
            rise.
    """

    def __init__(self, order: int, integration: Integration) -> None:
        refuse_to_leave_data("UniPC", integration.times)
        refuse_to_rise("UniPC", integration.times)
        coefficients = integration.path.coefficients(integration.times.double().cpu())
        self._path, self._num_kept = integration.path, order + 1
        self._plan = iter(_plan(order, coefficients))
        self._seen: list[Tensor] = []  # predicted data, the newest first

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        data = self._path.data_from_velocity(velocity(x, t), x, t)
        self._seen = [data, *self._seen][: self._num_kept]
        step = next(self._plan)
        x = _plus(x, step.correction, self._seen)
        return _plus(step.ratio * x, step.prediction, self._seen)


class _Planned(NamedTuple):
    """A step as a sum; weights are of the predictions from the newest on, of as many as needed."""

    correction: Sequence[float]
    ratio: float
    prediction: Sequence[float]


def _plan(order: int, c: Coefficients) -> list[_Planned]:
    """All steps of one integration by UniPC; the coefficients are those at its times."""
    places = half_log_snr(c).tolist()
    alphas, ratios = c.alpha.tolist(), (c.sigma[1:] / c.sigma[:-1]).tolist()
    num_steps, planned = len(ratios), []
    correction: Sequence[float] = ()
    for i, (here, there) in enumerate(pairwise(places)):
        known = [p for p in reversed(places[:i]) if math.isfinite(p)]
        left = num_steps - i if math.isinf(places[-1]) else order
        used = min(order, 1 + len(known), left)
        length = there - here
        nodes = [0.0, *((place - here) / length for place in known[: used - 1])]
        prediction = [alphas[i + 1] * w for w in _predictor(length, nodes)]
        planned.append(_Planned(correction, ratios[i], prediction))
        correction = ()
        if math.isfinite(length):
            corrected = [alphas[i + 1] * w for w in _corrector(length, nodes)]
            old = [0.0, *prediction]
            correction = [new - w for new, w in zip(corrected, old, strict=True)]
    return planned


def _predictor(length: float, nodes: Sequence[float]) -> list[float]:
    """Weights of UniP: at 0, here, and before; `nodes` are places in units of the step."""
    if len(nodes) == 2:
        whole, slope = -math.expm1(-length), 1 / (2 * nodes[1])
        return [whole * (1 - slope), whole * slope]
    return polynomial_weights(length, nodes)


def _corrector(length: float, nodes: Sequence[float]) -> list[float]:
    """Weights of UniC: at 1, where the step leads, and at the nodes of the predictor."""
    if len(nodes) == 1:
        return [-math.expm1(-length) / 2] * 2
    return polynomial_weights(length, [1.0, *nodes])


def polynomial_weights(length: float, nodes: Sequence[float]) -> list[float]:
    """Weights w with sum w_m f(nodes_m) = length (integral of e^(length (u - 1)) f(u) du, 0 to 1).

    Exact for polynomials f of degree < len(nodes). `length` > 0; for a single node it may be
    infinite.
    """
    moments = torch.tensor([_moment(k, length) for k in range(len(nodes))], dtype=torch.float64)
    powers = torch.tensor([[r**k for r in nodes] for k in range(len(nodes))], dtype=torch.float64)
    return torch.linalg.solve(powers, moments).tolist()


def _moment(k: int, length: float) -> float:
    """The integral above for f(u) = u^k."""
    if length < 1:  # the recursion below would cancel
        terms = ((-length) ** j * math.factorial(k) / math.factorial(k + j + 1) for j in range(20))
        return length * sum(terms)
    return -math.expm1(-length) if k == 0 else 1 - k / length * _moment(k - 1, length)


def _plus(x: Tensor, weights: Sequence[float], seen: Sequence[Tensor]) -> Tensor:
    for weight, data in zip(weights, seen, strict=False):
        x = x + weight * data
    return x


def half_log_snr(c: Coefficients) -> Tensor:
    """log(alpha / sigma); -inf where alpha is 0, +inf where sigma is 0."""
    return c.alpha.log() - c.sigma.log()


def minus_log_sigma(c: Coefficients) -> Tensor:
    """-log(sigma); +inf where sigma is 0."""
    return -c.sigma.log()


def refuse_to_leave_data(method: str, times: Tensor) -> None:
    """Refuse a step from t = 0.

    Raises:
        ValueError: If there is one.
    """
    if not bool((times[:-1] > 0).all()):
        raise ValueError(
            f"{method} cannot leave t = 0: every time but the last must be > 0, "
            f"got {times[0].item()} to {times[-1].item()}"
        )


def refuse_to_rise(method: str, times: Tensor) -> None:
    """Refuse a step towards noise.

    Raises:
        ValueError: If there is one.
    """
    if not bool((times[1:] < times[:-1]).all()):
        raise ValueError(
            f"{method} goes from noise to data: times must fall, "
            f"got {times[0].item()} to {times[-1].item()}"
        )
