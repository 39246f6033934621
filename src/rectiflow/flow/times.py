"""Which times to stop at when sampling.

Shifting is a pure function of t and is applied in exactly one place, the time grids here.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.flow.paths import SIGMA_MAX, SIGMA_MIN


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


def karras_times(num_steps: int, shift: float = 1.0) -> Float[Tensor, " times"]:
    """EDM's grid in t = sigma / 80: even in sigma^(1/7) from 80 to 0.002, then 0.

    arXiv:2206.00364, Eq. 5, with rho = 7.

    Raises:
        ValueError: If `shift` is not 1: noise levels have no shift.
    """
    if shift != 1:
        raise ValueError(f"shift must be 1 on the grid karras, got {shift}")
    even = torch.linspace(1, (SIGMA_MIN / SIGMA_MAX) ** (1 / 7), num_steps, dtype=torch.float64)
    return torch.cat([even**7, torch.zeros(1, dtype=torch.float64)])


GRIDS: dict[str, Callable[[int, float], Tensor]] = {
    "uniform": uniform_times,
    "sd3": sd3_times,
    "karras": karras_times,
}


def time_grid(
    num_steps: int, shift: float = 1.0, grid: str = "uniform", max_time: float = 1.0
) -> Float[Tensor, " times"]:
    """Decreasing times from max_time (noise) to exactly 0 (data), float64, num_steps + 1 of them.

    Args:
        num_steps: Steps between them, >= 1.
        shift: Moves the times towards noise, > 0; 1 moves nothing.
        grid: A name in `GRIDS`.
        max_time: Scales the grid, which would begin at 1; see `Path.max_time`.

    Raises:
        ValueError: If a value is out of range or the grid unknown.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, got {num_steps}")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift must be > 0, got {shift}")
    if grid not in GRIDS:
        raise ValueError(f"grid must be one of {sorted(GRIDS)}, got {grid!r}")
    return max_time * GRIDS[grid](num_steps, shift)


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
