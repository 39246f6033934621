"""Gaussian paths between data and noise.

One convention in the whole library (SD3, arXiv:2403.03206, Sec. 2):

    x_t = alpha(t) * data + sigma(t) * noise,    velocity = d x_t / d t,    t in [0, 1],

where t = 0 is data and t = 1 is noise. Times are tensors of shape (batch,), at least float32;
they are broadcast over the sample dimensions here, never by the caller.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

Sample = Float[Tensor, "batch *sample"]
Times = Float[Tensor, " batch"]

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # noise levels of EDM (arXiv:2206.00364, Table 1)


class Coefficients(NamedTuple):
    """Values and time derivatives of alpha and sigma, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def wronskian(self) -> Tensor:
        """The determinant alpha d_sigma - d_alpha sigma: never 0 on a path, 1 on that of rf."""
        return self.alpha * self.d_sigma - self.d_alpha * self.sigma


class Path(ABC):
    """A path is its four coefficients and its ends; everything else follows and is final.

    At t = 0 some predictions say nothing of the velocity (data, where sigma is 0), at t = 1 others
    (noise, where alpha is 0). So conversions read a time outside [`min_time`, `max_time`] as the
    nearest end, and sampling starts at `max_time`.
    """

    min_time: ClassVar[float] = 1e-5
    max_time: ClassVar[float] = 1.0
    is_straight: ClassVar[bool] = False  # alpha and sigma are affine in t

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Coefficients at times `t` of any shape."""

    def beginning(self, noise: Sample) -> Sample:
        """Where sampling starts, at `max_time`, from standard normal noise.

        Departure where alpha(max_time) is not 0: the true x still holds that share of the data.
        """
        return noise

    @final
    def clipped(self, t: Tensor) -> Tensor:
        """Times moved into [`min_time`, `max_time`]."""
        return t.clamp(self.min_time, self.max_time)

    @final
    def interpolate(self, data: Sample, noise: Sample, t: Times) -> Sample:
        """Point x_t between `data` and `noise` (SD3 Eq. 2)."""
        c = self.coefficients_like(t, data)
        return c.alpha * data + c.sigma * noise

    @final
    def velocity(self, data: Sample, noise: Sample, t: Times) -> Sample:
        """Conditional velocity d x_t / d t, the target of flow matching (SD3 Eq. 8)."""
        c = self.coefficients_like(t, data)
        return c.d_alpha * data + c.d_sigma * noise

    @final
    def data_from_velocity(self, velocity: Sample, x: Sample, t: Times) -> Sample:
        """Data implied by a velocity at `x`; inverts `interpolate` and `velocity` together."""
        c = self.coefficients_like(t, x)
        return (c.d_sigma * x - c.sigma * velocity) / c.wronskian

    @final
    def noise_from_velocity(self, velocity: Sample, x: Sample, t: Times) -> Sample:
        """Noise implied by a velocity at `x`."""
        c = self.coefficients_like(t, x)
        return (c.alpha * velocity - c.d_alpha * x) / c.wronskian

    @final
    def log_snr(self, t: Times) -> Times:
        """Log signal-to-noise power ratio, log(alpha^2 / sigma^2); +inf where sigma is 0."""
        c = self.coefficients(t)
        return 2 * (c.alpha.log() - c.sigma.log())

    @final
    def d_log_snr(self, t: Times) -> Times:
        """Time derivative of `log_snr`: 2 (alpha'/alpha - sigma'/sigma) (SD3, below Eq. 9)."""
        c = self.coefficients(t)
        return -2 * c.wronskian / (c.alpha * c.sigma)

    @final
    def time_at(self, log_snr: Times) -> Times:
        """Time of a log SNR, by bisection in float64; inverts `log_snr`.

        Raises:
            ValueError: If the path does not reach that noise.
        """
        wanted = log_snr.double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        if bool((wanted < self.log_snr(high)).any()):
            least = self.log_snr(high).min().item()
            raise ValueError(f"log_snr must be >= {least:.3f}, got {wanted.min().item():.3f}")
        for _ in range(60):  # halves the interval below one float64 unit
            middle = (low + high) / 2
            is_before = self.log_snr(middle) > wanted
            low, high = torch.where(is_before, middle, low), torch.where(is_before, high, middle)
        return (low + high) / 2

    @final
    def coefficients_like(self, t: Times, like: Sample) -> Coefficients:
        """Coefficients of each sample, broadcast over its dimensions.

        Raises:
            ValueError: If there is not one time of float32 or float64 for each sample.
        """
        if t.shape != like.shape[:1]:
            raise ValueError(f"t must have shape ({like.shape[0]},), got {tuple(t.shape)}")
        if t.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"t must be float32 (or float64), got {t.dtype}")
        return self.coefficients(t.view(-1, *[1] * (like.ndim - 1)))


@dataclass(frozen=True)
class RectifiedFlow(Path):
    """Straight line, x_t = (1 - t) data + t noise; velocity = noise - data (SD3 Eq. 13)."""

    is_straight: ClassVar[bool] = True

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(alpha=1 - t, sigma=t, d_alpha=-one, d_sigma=one)


@dataclass(frozen=True)
class VarianceExploding(Path):
    """EDM's path, x_t = data + sigma noise (SD3 Eq. 14), with sigma = 80 t.

    So Euler's method in t is Euler's in sigma, as EDM samples (arXiv:2206.00364, Eq. 4).
    Departure: SD3 writes sigma as a quantile of the training law, which reaches 0 and infinity;
    here sigma is clipped to [0.002, 80], and sampling starts from 80 noise.
    """

    min_time: ClassVar[float] = SIGMA_MIN / SIGMA_MAX
    is_straight: ClassVar[bool] = True

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(one, SIGMA_MAX * t, torch.zeros_like(t), SIGMA_MAX * one)

    def beginning(self, noise: Sample) -> Sample:
        return SIGMA_MAX * noise


class VariancePreserving(Path):
    """x_t = cos(angle) data + sin(angle) noise; a path is its angle."""

    @abstractmethod
    def angle(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Angle at times `t`, rising from 0 to at most pi / 2, and its derivative."""

    @final
    def coefficients(self, t: Tensor) -> Coefficients:
        angle, rate = self.angle(t)
        alpha, sigma = angle.cos().clamp(min=0), angle.sin()  # cos(pi / 2) rounds to below 0
        return Coefficients(alpha, sigma, -rate * sigma, rate * alpha)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """x_t = cos(pi t / 2) data + sin(pi t / 2) noise (SD3 Eq. 17).

    Departure: sampling starts at t = 0.98, where alpha is 0.031, because at t = 1 a predicted noise
    says nothing of the data. 1 / alpha = 32 is by how much errors of the noise are amplified there.
    """

    max_time: ClassVar[float] = 0.98

    def angle(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return math.pi / 2 * t, torch.full_like(t, math.pi / 2)


class DiscreteSchedule(VariancePreserving):
    """A chain of noising steps with given betas, made continuous.

    After k of n steps alpha^2 = prod (1 - beta); that is the knot at t = k / n, with no noise at
    t = 0. Unstated in the paper: what lies between the knots. Here the angle is a cubic between
    them, with the central difference as its slope at each (Catmull and Rom), so that the velocity
    is continuous, and finite also at t = 0, where sigma of the continuous limit, the square root
    of t, has infinite slope. alpha(1) is not 0: sampling starts from noise at t = 1 nevertheless,
    as these models always did.
    """

    @abstractmethod
    def betas(self) -> Float[Tensor, " steps"]:
        """Variance that each step adds, in float64."""

    @final
    def angle(self, t: Tensor) -> tuple[Tensor, Tensor]:
        knots, slopes = _knots(self, t.device, t.dtype)
        num_steps = len(knots) - 1
        place = num_steps * t
        k = place.long().clamp(0, num_steps - 1)
        part, slope = place - k, slopes[k]
        rise = knots[k + 1] - knots[k]
        square = 3 * rise - 2 * slope - slopes[k + 1]
        cube = slope + slopes[k + 1] - 2 * rise
        angle = knots[k] + part * (slope + part * (square + part * cube))
        return angle, num_steps * (slope + part * (2 * square + part * 3 * cube))


@lru_cache(maxsize=16)
def _knots(
    schedule: DiscreteSchedule, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Angles at t = 0, 1 / n, ..., 1 and their differences."""
    log_power = torch.log1p(-schedule.betas()).cumsum(0)  # log alpha^2
    angle = torch.atan(torch.expm1(-log_power).sqrt())  # tan = sigma / alpha
    angle = torch.cat([angle.new_zeros(1), angle])
    (slopes,) = torch.gradient(angle)
    return angle.to(dtype).to(device), slopes.to(dtype).to(device)


@dataclass(frozen=True)
class LdmLinear(DiscreteSchedule):
    """beta linear in its root, from 0.00085 to 0.012 in 1000 steps (SD3, Sec. 3; "LDM-Linear").

    Unstated in the paper: the values, which are those of Stable Diffusion.
    """

    def betas(self) -> Float[Tensor, " steps"]:
        return torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()


@dataclass(frozen=True)
class DdpmLinear(DiscreteSchedule):
    """beta linear, from 0.0001 to 0.02 in 1000 steps (SD3, Sec. 3).

    Unstated in the paper: the values, which are those of DDPM (arXiv:2006.11239, Sec. 4).
    """

    def betas(self) -> Float[Tensor, " steps"]:
        return torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
