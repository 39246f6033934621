"""Guidance: wrappers that turn a conditional network into one velocity field."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from rectiflow.flow.solvers import Velocity

Condition = TypeVar("Condition")


def guided(
    network: Callable[[Tensor, Tensor, Condition], Tensor],
    cond: Condition,
    cond_and_uncond: Condition,
    scale: float,
) -> Velocity:
    """Classifier-free guidance, uncond + scale (cond - uncond) (arXiv:2207.12598, Eq. 6).

    Both halves are one call of the network on a doubled batch.

    Args:
        network: Velocity at (x, t, conditioning).
        cond: Conditioning of the batch, used alone at scale 1.
        cond_and_uncond: The conditional then the unconditional text, joined along the batch.
        scale: Guidance scale as everybody counts it: 1 is off (the paper's w is scale - 1).

    Returns:
        Velocity field; at scale 1 exactly the conditional one, at half the cost.
    """
    if scale == 1:
        return lambda x, t: network(x, t, cond)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        both = network(torch.cat([x, x]), torch.cat([t, t]), cond_and_uncond)
        conditional, unconditional = both.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return velocity
