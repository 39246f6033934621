"""A sampler that draws noise on its way and passes through the same distributions as the flow."""

import torch
from torch import Tensor

from rectiflow.flow.multistep import refuse_to_leave_data, refuse_to_rise
from rectiflow.flow.steps import Integration, Velocity, column


class ReverseSde:
    """One integration of the reverse stochastic equation of a path.

    The score of the distribution at t is -noise / sigma, with the noise that a velocity implies. So
    for any g(t) the equation dx = (velocity + g^2 / 2 noise / sigma) dt + g dw, run from noise to
    data, has the marginals of the flow dx = velocity dt (arXiv:2011.13456, Eq. 6 and 13). Here
    g^2 = sigma^2 |d log_snr / dt|: that of the diffusion whose marginals the path has, for which
    the drift is linear in x but for the predicted data.

    A step holds the predicted data and is otherwise exact (DDPM's, arXiv:2006.11239, Eq. 6 and 7):

        x_s = alpha_s data + sigma_s (kept noise + sqrt(1 - kept^2) z),

    where kept = (sigma_s / alpha_s) / (sigma_t / alpha_t) and z is a fresh draw. First order in
    distribution, 1 evaluation per step. It starts also where alpha is 0, though g is infinite
    there, and the last step, to s = 0, returns the predicted data.

    Raises:
        ValueError: If there is no source of noise, the times rise, or a step starts at t = 0.
    """

    def __init__(self, integration: Integration) -> None:
        if integration.draw is None:
            raise ValueError("a stochastic solver needs a source of noise (draw), got none")
        refuse_to_leave_data("the stochastic solver", integration.times)
        refuse_to_rise("the stochastic solver", integration.times)
        self._path, self._draw = integration.path, integration.draw

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        v = velocity(x, t)
        data = self._path.data_from_velocity(v, x, t)
        noise = self._path.noise_from_velocity(v, x, t)
        here = self._path.coefficients(column(t, x))
        there = self._path.coefficients(column(s, x))
        kept = here.alpha * there.sigma / (there.alpha * here.sigma)
        mixed = kept * noise + torch.sqrt(1 - kept.square()) * self._draw(x)
        return there.alpha * data + there.sigma * mixed
