"""Which times to train on, and which times to stop at when sampling.

A density is known by its inverse distribution function: a caller draws u uniformly, from a source
keyed to the sample, and `quantile(u)` is the time. Shifting is a pure function of t and is
applied in exactly one place, the time grids at the end of this file.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

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


def uniform_times(num_steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
    """Even steps from 1 to 0, shifted once (SD3, C.2): 28 steps at shift 3 end with 0.1, 0."""
    return shift_times(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64), shift)


def sd3_times(num_steps: int, shift: float = 3.0) -> Float[Tensor, " times"]:
    """The grid of the released SD3 and SD3.5 samplers, whose shift acts twice.

    Their model times are k / 1000 shifted, k = 1 to 1000. A grid of n steps is n even times from
    the largest, 1, to the smallest, shift / (999 + shift), shifted once more, and then 0. At
    shift 3, 28 steps end with 0.00893, 0; without the second shift the former were 0.00299.
    """
    smallest = shift_times(torch.tensor(1 / 1000, dtype=torch.float64), shift)
    even = torch.linspace(1, smallest.item(), num_steps, dtype=torch.float64)
    return torch.cat([shift_times(even, shift), torch.zeros(1, dtype=torch.float64)])


GRIDS: dict[str, Callable[[int, float], Tensor]] = {"uniform": uniform_times, "sd3": sd3_times}


def time_grid(num_steps: int, shift: float = 1.0, grid: str = "uniform") -> Float[Tensor, " times"]:
    """Decreasing times from exactly 1 (noise) to exactly 0 (data), float64, num_steps + 1 of them.

    Args:
        num_steps: Steps between them, >= 1.
        shift: Moves the times towards noise, > 0; 1 moves nothing.
        grid: A name in `GRIDS`.

    Raises:
        ValueError: If a value is out of range or the grid unknown.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, got {num_steps}")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift must be > 0, got {shift}")
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {sorted(GRIDS)}, got {grid!r}")
    return GRIDS[grid](num_steps, shift)


def remaining_times(times: Float[Tensor, " times"], strength: float) -> Float[Tensor, " rest"]:
    """The end of a grid that is run when drawing starts from a picture.

    Of n steps the first int(n - n strength) are left out, as in diffusers' image-to-image
    pipelines; the picture is then noised to the first time that remains.

    Args:
        times: A whole grid of n + 1 times.
        strength: Share of the steps to run, in (0, 1]; 1 keeps the whole grid.

    Raises:
        ValueError: If `strength` is out of range.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be in (0, 1], got {strength}")
    num_steps = len(times) - 1
    return times[min(int(num_steps - num_steps * strength), num_steps - 1) :]


class Window(NamedTuple):
    """The times t with after < t <= until."""

    after: float
    until: float

    def holds(self, t: Float[Tensor, " batch"]) -> Tensor:
        """Which of the times lie in it. Ends are rounded to the precision of `t`, as grids are."""
        after, until = torch.tensor(self, dtype=t.dtype)
        return (t > after.to(t.device)) & (t <= until.to(t.device))


def steps_between(num_steps: int, start: float, end: float) -> range:
    """Steps i = 0, 1, ... of a grid with start < i / num_steps < end, both strict.

    The rule of the reference's skip-layer guidance, compared as it does: i > start num_steps and
    i < end num_steps, so that rounding falls on the same side.
    """
    inside = [i for i in range(num_steps) if start * num_steps < i < end * num_steps]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def window_of_steps(times: Float[Tensor, " times"], steps: range) -> Window:
    """The times at which consecutive steps ask for the velocity; step i goes from times[i].

    A method that also asks at the end of a step (Heun's) gets the answer of the next step there,
    so that the velocity stays a function of the time alone.

    Raises:
        ValueError: If there is no step.
    """
    if not steps:
        raise ValueError("a window needs at least one step, got none")
    return Window(after=times[steps[-1] + 1].item(), until=times[steps[0]].item())
