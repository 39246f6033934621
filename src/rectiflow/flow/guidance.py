"""Guidance: wrappers that turn a conditional network into one velocity field.

Every method leads away from a worse velocity, that of the same network without the text or of a
weaker network, by a rule on the two. A rule is of no use at scale 1, where the conditional velocity
is all there is: then there is nothing to wrap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rectiflow.flow.paths import Path
from rectiflow.flow.steps import Velocity, column
from rectiflow.flow.times import Window

Condition = TypeVar("Condition")
Field = Callable[[Tensor, Tensor, Condition], Tensor]  # velocity at (x, t, conditioning)
Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, t) -> conditional, worse velocity
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (x, t, conditional, worse) -> velocity


def without_text(network: Field[Condition], cond_and_uncond: Condition) -> Pair:
    """The worse velocity is that without the text (classifier-free guidance, arXiv:2207.12598).

    Both are one call of the network on a doubled batch.

    Args:
        network: Velocity at (x, t, conditioning).
        cond_and_uncond: The conditional then the unconditional text, joined along the batch.
    """

    def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both = network(torch.cat([x, x]), torch.cat([t, t]), cond_and_uncond)
        conditional, unconditional = both.chunk(2)
        return conditional, unconditional

    return pair


def without_strength(network: Field[Condition], weaker: Field[Condition], cond: Condition) -> Pair:
    """The worse velocity is that of a weaker network with the same text (autoguidance).

    arXiv:2406.02507, Eq. 3: a smaller or less trained version of the network errs where the network
    errs, and more.
    """
    return lambda x, t: (network(x, t, cond), weaker(x, t, cond))


@dataclass(frozen=True)
class Linear:
    """worse + scale (conditional - worse): the rule of classifier-free guidance (its Eq. 6).

    Args:
        scale: As everybody counts it: 1 is off (that paper's w is scale - 1).
    """

    scale: float

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor, worse: Tensor) -> Tensor:
        return worse + self.scale * (conditional - worse)


@dataclass(frozen=True)
class OptimizedScale:
    """The rule of CFG-Zero* (arXiv:2503.18886, Sec. 4.1): first the worse velocity is rescaled.

    Its factor, <conditional, worse> / |worse|^2 of each sample, brings it as near to the
    conditional one as it can come. The paper's other half, that the first steps stand still, is a
    matter of the times and not of a rule.
    """

    scale: float

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor, worse: Tensor) -> Tensor:
        square = _dot(worse, worse)
        nearest = _dot(conditional, worse) / square.clamp(min=torch.finfo(square.dtype).tiny)
        return Linear(self.scale)(x, t, conditional, nearest * worse)


class Projected:
    """The rule of APG, adaptive projected guidance (arXiv:2410.02416, Sec. 4 and Alg. 1).

    It works on predicted data. The difference of the two predictions, with a share of the
    differences before it, is shortened to a norm if it is longer; its part parallel to the
    conditional prediction, which saturates colours, is scaled by eta; then (scale - 1) times the
    result is added to the conditional prediction. Without momentum and bound, eta 1 is the linear
    rule.

    A rule with momentum remembers the calls before: one for each integration, and a solver that
    asks once in each step.

    Args:
        scale: Guidance scale; 1 is off.
        path: Path of the flow.
        eta: Factor on the parallel part; the paper's is 0.
        max_norm: Bound of the difference's Euclidean norm over a sample's entries; 0 is none. The
            paper's depends on the model: 15 for SDXL, whose latents have 65,536 entries.
        momentum: Share of the differences before, negative to lead away from them (the paper's
            for SDXL is -0.5); 0 is none.
    """

    def __init__(
        self, scale: float, path: Path, eta: float = 0.0, max_norm: float = 0.0, momentum: float = 0
    ) -> None:
        self._scale, self._path = scale, path
        self._eta, self._max_norm, self._momentum = eta, max_norm, momentum
        self._mean: Tensor | None = None  # of the differences before, as predicted data

    def __call__(self, x: Tensor, t: Tensor, conditional: Tensor, worse: Tensor) -> Tensor:
        c = self._path.coefficients(column(t, x))
        data_per_velocity = -c.sigma / c.wronskian  # of differences; 0 at data
        change = conditional - worse
        if self._momentum:
            mean = data_per_velocity * change
            mean = mean if self._mean is None else mean + self._momentum * self._mean
            self._mean, change = mean, mean / data_per_velocity
        if self._max_norm:
            norm = data_per_velocity.abs() * _dot(change, change).sqrt()
            change = change * (self._max_norm / norm).clamp(max=1)
        data = self._path.data_from_velocity(conditional, x, t)
        square = _dot(data, data).clamp(min=torch.finfo(data.dtype).tiny)
        parallel = _dot(change, data) / square * data
        return conditional + (self._scale - 1) * (change + (self._eta - 1) * parallel)


@dataclass(frozen=True)
class SkipLayers(Generic[Condition]):
    """Skip-layer guidance: away from what a network says without some of its blocks.

    The rule of Stability AI's sampler for SD3.5 Medium: to the guided velocity is added
    scale * (cond - cond_skip), where both are the conditional velocity, the latter without the
    blocks. diffusers' pipeline does the same where its guidance scale is above 1 and leaves
    skip-layer guidance out where it is not; here, as in Stability's sampler, the two scales are
    independent.

    Args:
        network: Velocity at (x, t, conditioning) without the blocks.
        scale: Strength; the reference's is 2.5, diffusers' 2.8.
        window: Times at which it acts; elsewhere the network is not called.
    """

    network: Field[Condition]
    scale: float
    window: Window


@dataclass(frozen=True)
class Guidance:
    """What leads away from a worse velocity, and when.

    Args:
        pair: Gives the two velocities.
        rule: Makes one of them.
        window: Times at which it acts (arXiv:2404.07724, Eq. 4, there an interval of noise
            levels); elsewhere the velocity is the conditional one, at the cost of one. None is all.
    """

    pair: Pair
    rule: Rule
    window: Window | None = None


def guided(
    network: Field[Condition],
    cond: Condition,
    guidance: Guidance | None = None,
    skip: SkipLayers[Condition] | None = None,
) -> Velocity:
    """The velocity field of a network that is guided.

    Args:
        network: Velocity at (x, t, conditioning).
        cond: Conditioning of the batch.
        guidance: None is none: exactly the conditional velocity.
        skip: Skip-layer guidance on top.
    """

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The guided velocity and the conditional one."""
        if guidance is None or not (is_inside := _inside(guidance.window, x, t)).any():
            conditional = network(x, t, cond)
            return conditional, conditional
        conditional, worse = guidance.pair(x, t)
        steered = guidance.rule(x, t, conditional, worse)
        return torch.where(is_inside, steered, conditional), conditional

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        steered, conditional = both(x, t)
        if skip is None or not (is_inside := _inside(skip.window, x, t)).any():
            return steered
        away = skip.scale * (conditional - skip.network(x, t, cond))
        return torch.where(is_inside, steered + away, steered)

    return velocity


def _inside(window: Window | None, x: Tensor, t: Tensor) -> Tensor:
    """Which samples are in the window, broadcast over their dimensions."""
    is_inside = torch.ones_like(t, dtype=torch.bool) if window is None else window.holds(t)
    return is_inside.view(-1, *[1] * (x.ndim - 1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Product of each sample with its own, broadcast over its dimensions."""
    return (a * b).flatten(1).sum(dim=1).view(-1, *[1] * (a.ndim - 1))
