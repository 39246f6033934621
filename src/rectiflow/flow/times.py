"""Which times to train on, and which times to stop at when sampling.

A density is known by its inverse distribution function: a caller draws u uniformly, from a source
keyed to the sample, and `quantile(u)` is the time. Shifting is a pure function of t and is
applied in exactly one place, `time_grid`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

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
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(
                f"mean must be finite and std > 0, got mean {self.mean}, std {self.std}"
            )

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


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: shift t / (1 + (shift - 1) t) (SD3, C.2). Keeps 0 and 1."""
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(num_image_tokens: int, base_num_image_tokens: int) -> float:
    """Shift that keeps the uncertainty of a constant image when its token count changes.

    Equal to sqrt(m / n) for m tokens now and n tokens at the base resolution (SD3, C.2).
    Tokens are counted after patching: 1024 px, 8x autoencoder, patch 2 gives 64 * 64 = 4096.
    """
    return math.sqrt(num_image_tokens / base_num_image_tokens)


def time_grid(num_steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
    """Decreasing times from exactly 1 (noise) to exactly 0 (data), float64, num_steps + 1 of them.

    Raises:
        ValueError: If `num_steps` < 1 or `shift` <= 0.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, got {num_steps}")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift must be > 0, got {shift}")
    return shift_times(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), shift)
