"""Which times to train on.

A density is known by its inverse distribution function: a caller draws u uniformly, from a source
keyed to the sample, and `quantile(u)` is the time.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.flow.paths import SIGMA_MAX, SIGMA_MIN

MAX_MODE_SCALE = 2 / (math.pi - 2)  # beyond it, Mode's map of u to t turns back (SD3, Eq. 20)


class Density(ABC):
    """Training density of t on (0, 1)."""

    @abstractmethod
    def inverse_cdf(self, u: Tensor) -> Tensor:
        """Time below which a share `u` of the mass lies; increasing, in the dtype of `u`."""

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """Probability density at times `t` strictly inside (0, 1)."""

    @final
    def quantile(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Times of the uniform draws `u` in (0, 1): float32, strictly inside (0, 1).

        Computed in float64; rounding to float32 must not create the times 0 and 1, which the
        law excludes and where some formulations are singular.
        """
        t = self.inverse_cdf(u.double()).float()
        return t.clamp(torch.finfo(torch.float32).tiny, 1 - 2**-24)

    def level(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Our time for the paper's u in [0, 1], in which its validation is spaced: the same."""
        return u


@dataclass(frozen=True)
class Uniform(Density):
    """Every time alike."""

    def inverse_cdf(self, u: Tensor) -> Tensor:
        return u

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class LogitNormal(Density):
    """logit(t) ~ Normal(mean, std^2) (SD3 Eq. 19).

    Args:
        mean: Location; negative favours data (small t), positive favours noise.
        std: Spread, > 0.

    Raises:
        ValueError: If `std` is not positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_normal(self.mean, self.std)

    def inverse_cdf(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def density(self, t: Tensor) -> Tensor:
        z = (torch.logit(t) - self.mean) / self.std
        return torch.exp(-z.square() / 2) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))


@dataclass(frozen=True)
class Mode(Density):
    """Heavy tails, positive at both ends (SD3 Eq. 20).

    The paper draws t = f(u) = 1 - u - s (cos^2(pi u / 2) - 1 + u), which falls as u rises; the
    increasing map of the same law is f(1 - u).

    Args:
        scale: The paper's s; > 0 favours the middle, < 0 the ends, 0 is uniform.

    Raises:
        ValueError: If `scale` is outside [-1, 2 / (pi - 2)], where the map is not monotone.
    """

    scale: float

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= MAX_MODE_SCALE:
            raise ValueError(f"scale must be in [-1, {MAX_MODE_SCALE:.4f}], got {self.scale}")

    def inverse_cdf(self, u: Tensor) -> Tensor:
        return u - self.scale * (torch.sin(math.pi / 2 * u).square() - u)

    def density(self, t: Tensor) -> Tensor:
        """1 / (dt/du) where t(u) = t; u has no closed form and is found by bisection."""
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):  # halves the interval below one float64 unit
            middle = (low + high) / 2
            is_below = self.inverse_cdf(middle) < t
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        slope = 1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * (low + high) / 2))
        return 1 / slope


@dataclass(frozen=True)
class CosMap(Density):
    """Log-SNR as under the cosine schedule: t = 1 - 1 / (tan(pi u / 2) + 1) (SD3 Eq. 21)."""

    def inverse_cdf(self, u: Tensor) -> Tensor:
        sin, cos = torch.sin(math.pi / 2 * u), torch.cos(math.pi / 2 * u)
        return sin / (sin + cos)  # the same, without the pole of tan at u = 1

    def density(self, t: Tensor) -> Tensor:
        """2 / (pi - 2 pi t + 2 pi t^2) (SD3 Eq. 22)."""
        return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))


class NoiseLevels(Density):
    """A law of EDM's noise levels sigma = 80 t, clipped to [0.002, 80].

    SD3's time is the share u of the law below sigma (Eq. 14). Departure: SD3 does not clip; here
    the tails lie on the ends.
    """

    @abstractmethod
    def sigma(self, u: Tensor) -> Tensor:
        """Noise level below which a share `u` lies, in (0, infinity)."""

    @abstractmethod
    def sigma_density(self, sigma: Tensor) -> Tensor:
        """Probability density of the level."""

    @final
    def inverse_cdf(self, u: Tensor) -> Tensor:
        return self.sigma(u).clamp(SIGMA_MIN, SIGMA_MAX) / SIGMA_MAX

    @final
    def density(self, t: Tensor) -> Tensor:
        """Between the clipped ends."""
        return SIGMA_MAX * self.sigma_density(SIGMA_MAX * t)

    @final
    def level(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Our time for the paper's u in [0, 1], which is the quantile (SD3 Eq. 14)."""
        return self.quantile(u)


@dataclass(frozen=True)
class LogNormal(NoiseLevels):
    """ln sigma ~ Normal(mean, std^2) (SD3 Eq. 15; P_mean and P_std of EDM).

    Args:
        mean: Location of ln sigma.
        std: Its spread, > 0.

    Raises:
        ValueError: If `std` is not positive.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _check_normal(self.mean, self.std)

    def sigma(self, u: Tensor) -> Tensor:
        return torch.exp(self.mean + self.std * torch.special.ndtri(u))

    def sigma_density(self, sigma: Tensor) -> Tensor:
        z = (sigma.log() - self.mean) / self.std
        return torch.exp(-z.square() / 2) / (self.std * math.sqrt(2 * math.pi) * sigma)


@dataclass(frozen=True)
class LogLogistic(NoiseLevels):
    """ln sigma = logit(u): the log SNR of rectified flow at uniform times (SD3, edm/rf).

    Unstated in the paper: a formula. It says that edm/rf matches the weighting of rf's log SNR.
    """

    def sigma(self, u: Tensor) -> Tensor:
        return u / (1 - u)

    def sigma_density(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma).square()


@dataclass(frozen=True)
class HalfCauchy(NoiseLevels):
    """sigma = tan(pi u / 2): the log SNR of the cosine path at uniform times (SD3, edm/cos).

    Unstated in the paper: a formula. It says that edm/cos matches the weighting of v/cos.
    """

    def sigma(self, u: Tensor) -> Tensor:
        return torch.tan(math.pi / 2 * u)

    def sigma_density(self, sigma: Tensor) -> Tensor:
        return 2 / (math.pi * (1 + sigma.square()))


def _check_normal(mean: float, std: float) -> None:
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise ValueError(f"mean must be finite and std > 0, got mean {mean}, std {std}")
