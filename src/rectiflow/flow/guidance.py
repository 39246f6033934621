"""Guidance: wrappers that turn a conditional network into one velocity field."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rectiflow.flow.solvers import Velocity
from rectiflow.flow.times import Window

Condition = TypeVar("Condition")


@dataclass(frozen=True)
class SkipLayers(Generic[Condition]):
    """Skip-layer guidance: away from what a network says without some of its blocks.

    The rule of Stability AI's sampler for SD3.5 Medium: to the velocity of classifier-free guidance
    is added scale * (cond - cond_skip), where both are the conditional velocity, the latter without
    the blocks. diffusers' pipeline does the same where its guidance scale is above 1 and leaves
    skip-layer guidance out where it is not; here, as in Stability's sampler, the two scales are
    independent.

    Args:
        network: Velocity at (x, t, conditioning) without the blocks.
        scale: Strength; the reference's is 2.5, diffusers' 2.8.
        window: Times at which it acts; elsewhere the network is not called.
    """

    network: Callable[[Tensor, Tensor, Condition], Tensor]
    scale: float
    window: Window


def guided(
    network: Callable[[Tensor, Tensor, Condition], Tensor],
    cond: Condition,
    cond_and_uncond: Condition,
    scale: float,
    skip: SkipLayers[Condition] | None = None,
) -> Velocity:
    """Classifier-free guidance, uncond + scale (cond - uncond) (arXiv:2207.12598, Eq. 6).

    Both halves are one call of the network on a doubled batch.

    Args:
        network: Velocity at (x, t, conditioning).
        cond: Conditioning of the batch, used alone at scale 1.
        cond_and_uncond: The conditional then the unconditional text, joined along the batch.
        scale: Guidance scale as everybody counts it: 1 is off (the paper's w is scale - 1).
        skip: Skip-layer guidance on top.

    Returns:
        Velocity field; at scale 1 exactly the conditional one, at half the cost.
    """

    def both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity of classifier-free guidance and the conditional one."""
        if scale == 1:
            conditional = network(x, t, cond)
            return conditional, conditional
        pair = network(torch.cat([x, x]), torch.cat([t, t]), cond_and_uncond)
        conditional, unconditional = pair.chunk(2)
        return unconditional + scale * (conditional - unconditional), conditional

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        steered, conditional = both(x, t)
        if skip is None or not (is_inside := skip.window.holds(t)).any():
            return steered
        away = skip.scale * (conditional - skip.network(x, t, cond))
        return torch.where(is_inside.view(-1, *[1] * (x.ndim - 1)), steered + away, steered)

    return velocity
