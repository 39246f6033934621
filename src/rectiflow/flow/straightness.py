"""How straight a flow is: the length of its paths, and what few steps lose (SD3, Table 6).

A straight flow needs one step of Euler's method: its paths are as long as their ends are apart,
and no number of steps changes where they end.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.flow.paths import Path, RectifiedFlow
from rectiflow.flow.solvers import EULER, integrate
from rectiflow.flow.steps import Solver, Velocity
from rectiflow.flow.times import uniform_times

State = Float[Tensor, "batch *sample"]
Score = Callable[[Tensor], float]  # of the states that sampling ends with; more is better


class PathLength(NamedTuple):
    """Of every sample, in units of the state: Euclidean, over all its values.

    Attributes:
        length: Sum of |velocity dt| over the steps.
        distance: From where the path begins to where it ends; the length is never less.
    """

    length: Float[Tensor, " batch"]
    distance: Float[Tensor, " batch"]


def path_length(
    velocity: Velocity,
    x: State,
    times: Float[Tensor, " times"],
    solver: Solver = EULER,
    *,
    path: Path | None = None,
) -> PathLength:
    """Length of the polygon that a solver's steps draw from `x`; Table 6 takes 50 of Euler's.

    Departure beyond rectified flow, which the paper measures alone: the states of other paths are
    measured as rectified flow has them, x / (alpha + sigma), where alpha + sigma is 1. That maps
    noise to noise and data to data, so that lengths compare between paths.

    Args:
        velocity: Field to follow.
        x: State at times[0].
        times: Grid to follow.
        solver: Method of integration that takes the steps of the grid.
        path: Path that the velocity belongs to; rectified flow by default.

    Raises:
        ValueError: If the solver takes steps of its own.
    """
    path = path or RectifiedFlow()

    def rectified(state: Tensor, t: Tensor) -> Tensor:
        at = path.coefficients_like(t, state)
        return (state / (at.alpha + at.sigma)).flatten(1)

    places = [rectified(x, times[0].to(x).expand(len(x)))]
    lengths: list[Tensor] = []

    def after_step(state: Tensor, t: Tensor) -> Tensor:
        place = rectified(state, t)
        lengths.append((place - places[-1]).norm(dim=1))
        places[1:] = [place]  # where it began, and where it is
        return state

    integrate(velocity, x, times, solver, path=path, after_step=after_step)
    return PathLength(torch.stack(lengths).sum(0), (places[-1] - places[0]).norm(dim=1))


def step_drop(
    velocity: Velocity,
    x: State,
    score: Score,
    steps: Sequence[int] = (5, 10, 20),
    most_steps: int = 50,
    *,
    solver: Solver = EULER,
    path: Path | None = None,
    grid: Callable[[int], Tensor] = uniform_times,
) -> dict[int, float]:
    """What a score loses in fewer steps, in per cent of that in `most_steps`, by number of steps.

    The paper's score is the CLIP score of the decoded pictures.

    Args:
        velocity: Field to follow.
        x: State to begin with, the same for all.
        score: Of the states at the end.
        steps: Numbers of steps to try.
        most_steps: What they are held against.
        solver: Method of integration.
        path: Path that the velocity belongs to; rectified flow by default.
        grid: From a number of steps to their times.

    Raises:
        ValueError: If the score in `most_steps` is not positive.
    """

    def score_in(num_steps: int) -> float:
        return score(integrate(velocity, x, grid(num_steps), solver, path=path))

    best = score_in(most_steps)
    return {num: relative_decrease(score_in(num), best) for num in steps}


def relative_decrease(few: float, many: float) -> float:
    """What a score in few steps falls short of one in many, in per cent of the latter.

    Negative if few steps score more.

    Raises:
        ValueError: If the score in many steps is not positive.
    """
    if not many > 0:
        raise ValueError(f"a decrease is relative to a positive score, got {many}")
    return 100 * (many - few) / many
