"""Gaussian paths between data and noise.

One convention in the whole library (SD3, arXiv:2403.03206, Sec. 2):

    x_t = alpha(t) * data + sigma(t) * noise,    velocity = d x_t / d t,    t in [0, 1],

where t = 0 is data and t = 1 is noise. Times are tensors of shape (batch,), at least float32;
they are broadcast over the sample dimensions here, never by the caller.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

Sample = Float[Tensor, "batch *sample"]
Times = Float[Tensor, " batch"]


class Coefficients(NamedTuple):
    """Values and time derivatives of alpha and sigma, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Path(ABC):
    """A path is its four coefficients; everything else follows and is final."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times `t` of any shape."""

    @final
    def interpolate(self, data: Sample, noise: Sample, t: Times) -> Sample:
        """Point x_t between `data` and `noise` (SD3 Eq. 2)."""
        c = self._broadcast(t, data)
        return c.alpha * data + c.sigma * noise

    @final
    def velocity(self, data: Sample, noise: Sample, t: Times) -> Sample:
        """Conditional velocity d x_t / d t, the target of flow matching (SD3 Eq. 8)."""
        c = self._broadcast(t, data)
        return c.d_alpha * data + c.d_sigma * noise

    @final
    def data_from_velocity(self, velocity: Sample, x: Sample, t: Times) -> Sample:
        """Data implied by a velocity at `x`; inverts `interpolate` and `velocity` together."""
        c = self._broadcast(t, x)
        return (c.d_sigma * x - c.sigma * velocity) / _wronskian(c)

    @final
    def noise_from_velocity(self, velocity: Sample, x: Sample, t: Times) -> Sample:
        """Noise implied by a velocity at `x`."""
        c = self._broadcast(t, x)
        return (c.alpha * velocity - c.d_alpha * x) / _wronskian(c)

    @final
    def log_snr(self, t: Times) -> Times:
        """Log signal-to-noise power ratio, log(alpha^2 / sigma^2); +inf where sigma is 0."""
        c = self.coefficients(t)
        return 2 * (c.alpha.log() - c.sigma.log())

    @final
    def d_log_snr(self, t: Times) -> Times:
        """Time derivative of `log_snr`: 2 (alpha'/alpha - sigma'/sigma) (SD3, below Eq. 9)."""
        c = self.coefficients(t)
        return -2 * _wronskian(c) / (c.alpha * c.sigma)

    def _broadcast(self, t: Tensor, like: Tensor) -> Coefficients:
        if t.shape != like.shape[:1]:
            raise ValueError(f"t must have shape ({like.shape[0]},), got {tuple(t.shape)}")
        if t.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"t must be float32 (or float64), got {t.dtype}")
        return self.coefficients(t.view(-1, *[1] * (like.ndim - 1)))


@dataclass(frozen=True)
class RectifiedFlow(Path):
    """Straight line, x_t = (1 - t) data + t noise; velocity = noise - data (SD3 Eq. 13)."""

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(alpha=1 - t, sigma=t, d_alpha=-one, d_sigma=one)


def _wronskian(c: Coefficients) -> Tensor:
    """Determinant alpha d_sigma - d_alpha sigma: never 0 on a valid path, 1 for rectified flow."""
    return c.alpha * c.d_sigma - c.d_alpha * c.sigma
