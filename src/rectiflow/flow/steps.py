"""What a method of integration is, and the methods that remember nothing from step to step.

Solvers know nothing of text, guidance or networks. Conditioning is bound into the velocity
beforehand, so every solver works with every model and each is tested on exact equations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.flow.paths import Path

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (batch, ...), t (batch,)) -> dx/dt
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]  # (velocity, x, t, s) -> x at s
AfterStep = Callable[[Tensor, Tensor], Tensor]  # (x at s, s (batch,)) -> x to go on from
Draw = Callable[[Tensor], Tensor]  # x -> standard normal noise of its shape, type and device

TOLERANCE = 1e-5


class Integration(NamedTuple):
    """One integration, as a method that prepares for it sees it.

    Attributes:
        path: Path that the velocity belongs to.
        times: Grid of shape (num_steps + 1,).
        draw: Source of noise, for methods that draw some on their way.
        tolerance: Error that a method of steps of its own may make, relative and absolute.
    """

    path: Path
    times: Tensor
    draw: Draw | None = None
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Solver:
    """A method of integration.

    Args:
        begin: Makes the step of one integration. What a method remembers from step to step lives
            in that step, never here.
        stages: Where in a step it asks for the velocity, from 0, its start, to 1, its end; empty
            for a method that takes steps of its own between the first time and the last.
        is_stochastic: Whether it draws noise on its way.
    """

    begin: Callable[[Integration], Step]
    stages: tuple[float, ...]
    is_stochastic: bool = False

    @property
    def is_adaptive(self) -> bool:
        """Whether it takes steps of its own."""
        return not self.stages


def euler(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """First order, 1 evaluation per step."""
    return x + column(s - t, x) * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Second order, 2 evaluations per step."""
    middle = euler(velocity, x, t, (t + s) / 2)
    return x + column(s - t, x) * velocity(middle, (t + s) / 2)


def heun(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Second order, 2 evaluations per step (EDM, arXiv:2206.00364, Alg. 1).

    Departure: EDM falls back to Euler for the last step, because the right-hand side as it is
    written there divides by sigma = 0. The velocity is finite at t = 0, so every step is Heun;
    only of predicted data it is not, and sampling refuses that.
    """
    start = velocity(x, t)
    end = velocity(x + column(s - t, x) * start, s)
    return x + column(s - t, x) * (start + end) / 2


def rk4(velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Fourth order, 4 evaluations per step (the classical Runge-Kutta method)."""
    length, half = column(s - t, x), (t + s) / 2
    first = velocity(x, t)
    second = velocity(x + length / 2 * first, half)
    third = velocity(x + length / 2 * second, half)
    fourth = velocity(x + length * third, s)
    return x + length * (first + 2 * second + 2 * third + fourth) / 6


class Straightened:
    """One integration by a one-step method in the coordinates in which the path is straight.

    On any path x / alpha is straight over sigma / alpha, and its slope is the predicted noise; with
    `euler` a step ends where the predicted data and noise lie at s, and is that of DDIM
    (arXiv:2010.02502, Sec. 4.3). A path that is straight in t keeps its t.

    Unstated in the paper: in which coordinates SD3 takes Euler's steps. In t they would leave noise
    of a network that knows it exactly: a standard deviation of 0.33 after 5 steps and 0.10 after 50
    on `LdmLinear`, where sigma falls to 0 as the root of t; 0.16 and 0.015 on `Cosine`.

    Args:
        step: The method.
        stages: Where in a step it asks, see `Solver`.
        integration: On a path that is not straight in t.

    Raises:
        ValueError: If a time is above the path's `max_time`, where alpha may be 0.
    """

    def __init__(self, step: Step, stages: tuple[float, ...], integration: Integration) -> None:
        self._step, self._path = step, integration.path
        if (largest := integration.times.max().item()) > self._path.max_time + 1e-6:
            raise ValueError(f"times must be <= max_time {self._path.max_time}, got {largest:g}")
        asked = stage_times(integration.path, integration.times, stages)
        self._asked = iter(asked.to(torch.promote_types(integration.times.dtype, torch.float32)))
        self._stages = stages

    def __call__(self, velocity: Velocity, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        path = self._path
        between = dict(zip(self._stages, next(self._asked).to(t), strict=True)).get(0.5)
        here, there = path.coefficients(t), path.coefficients(s)
        start, end = here.sigma / here.alpha, there.sigma / there.alpha

        def slope(y: Tensor, u: Tensor) -> Tensor:
            at_end = torch.where(u == end, s, t)
            time = (
                at_end
                if between is None
                else torch.where((u == start) | (u == end), at_end, between)
            )
            x = column(path.coefficients(time).alpha, y) * y
            return path.noise_from_velocity(velocity(x, time), x, time)

        return column(there.alpha, x) * self._step(slope, x / column(here.alpha, x), start, end)


def one_step(step: Step, *stages: float) -> Solver:
    """The solver of a step that remembers nothing; see `Solver` for its stages."""

    def begin(integration: Integration) -> Step:
        if integration.path.is_straight:
            return step
        return Straightened(step, stages, integration)

    return Solver(begin, stages)


def stage_times(path: Path, times: Tensor, stages: tuple[float, ...]) -> Tensor:
    """When a method asks for the velocity in each step, shape (num_steps, stages).

    The middle of a step is that of sigma / alpha on a path that is not straight in t.
    """
    start, end = times[:-1], times[1:]
    middle = (start + end) / 2
    if 0.5 in stages and not path.is_straight:
        c = path.coefficients(times.double())
        ratio = c.sigma / c.alpha
        middle = path.time_at(-2 * ((ratio[:-1] + ratio[1:]) / 2).log()).to(times)
    places = {0: start, 0.5: middle, 1: end}
    return torch.stack([places[stage] for stage in stages], dim=1)


def own_noise(generators: Sequence[torch.Generator]) -> Draw:
    """Noise of which every sample's comes from its own generator, so that no batch enters.

    Args:
        generators: One for each sample, on the CPU; the same noise then on every device.
    """

    def draw(x: Tensor) -> Tensor:
        if len(x) != len(generators):
            raise ValueError(f"{len(x)} samples need as many generators, got {len(generators)}")
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)

    return draw


def column(t: Tensor, x: Tensor) -> Tensor:
    """Times (batch,) as factors of a state (batch, ...): for solvers' sums, not for networks."""
    return t.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
