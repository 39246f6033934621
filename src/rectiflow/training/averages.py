"""Averages of the weights beside the first, and averages of any width made of them afterwards.

The method is post-hoc EMA (arXiv:2312.02696, Section 3.1 and Appendix C). A power-function average
over t steps is the integral of the weights against the profile

    p(s) = (gamma + 1) s^gamma / t^(gamma + 1),  0 <= s <= t,

and one of another gamma or t is that combination of kept ones whose profile is nearest to it.

Departure: the coefficients are made to add up to 1, so that weights which stood still are given
back as they are; the paper's least squares leaves their sum free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow.checkpoints import list_averages, load_group, read_state
from rectiflow.errors import DataError
from rectiflow.runs import Run
from rectiflow.training.checkpoint import Checkpoint, save_averages
from rectiflow.training.ema import Ema, exponential, power_function
from rectiflow.training.settings.sections import WIDEST, AveragesSettings
from rectiflow.training.state import TrainState
from rectiflow.training.writer import CheckpointWriter

WIDTHS = "widths"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a power-function average weighs: (exponent + 1) s^exponent / t^(exponent + 1).

    Args:
        exponent: Its gamma, at least 0.
        num_steps: Its t, the steps so far, at least 1.
    """

    exponent: float
    num_steps: int


def relative_width(exponent: float) -> float:
    """Standard deviation of a profile as a share of the steps so far."""
    return (exponent + 1) ** 0.5 / ((exponent + 2) * (exponent + 3) ** 0.5)


def exponent_of(width: float) -> float:
    """The exponent, at least 0, of a relative width in (0, 12^-1/2]."""
    if not 0 < width <= WIDEST:
        raise ValueError(f"a relative width must be in (0, {WIDEST:.4f}], got {width}")
    # (gamma + 2)^2 (gamma + 3) = (gamma + 1) / width^2, and the largest of its three roots.
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(roots.real.max()))


def overlap(a: Profile, b: Profile) -> float:
    """Integral of the product of two profiles."""
    short, long = sorted((a, b), key=lambda each: each.num_steps)
    ratio = (short.num_steps / long.num_steps) ** long.exponent
    scale = (a.exponent + 1) * (b.exponent + 1) / (a.exponent + b.exponent + 1)
    return scale * ratio / long.num_steps


def coefficients(kept: Sequence[Profile], wanted: Profile) -> np.ndarray:
    """Factors of the kept averages whose sum comes nearest to the wanted one; they add up to 1."""
    num = len(kept)
    system, right = np.zeros((num + 1, num + 1)), np.ones(num + 1)
    for i, a in enumerate(kept):
        system[i, :num] = [overlap(a, b) for b in kept]
        right[i] = overlap(a, wanted)
    scale = np.sqrt(system.diagonal()[:num])  # profiles of length 1, for the sake of rounding
    system[:num, :num] /= scale[:, None] * scale
    system[:num, num] = system[num, :num] = 1 / scale / (1 / scale).max()
    right[:num] /= scale
    right[num] = 1 / (1 / scale).max()
    return np.linalg.lstsq(system, right, rcond=None)[0][:num] / scale


def further_averages(model: nn.Module, settings: AveragesSettings) -> dict[str, Ema]:
    """The averages that `training.averages` asks for, by the names of their groups."""
    averages = {exponential_name(d): Ema(model, exponential(d)) for d in settings.decays}
    for width in settings.widths:
        averages[_power_name(width)] = Ema(model, power_function(exponent_of(width)))
    return averages


def exponential_name(decay: float) -> str:
    """Name of a further exponential average, in a checkpoint and behind its metrics."""
    return f"ema_{decay}"


def _power_name(width: float) -> str:
    return f"power_{width}"


def keep_averages(
    state: TrainState, settings: AveragesSettings, most: int, writer: CheckpointWriter
) -> None:
    """Write the power-function averages of this step; at most `most` stay, spread over the run."""
    widths = {_power_name(width): width for width in settings.widths}
    tensors = {name: state.averages[name].tensors for name in widths}
    kept = Checkpoint(state.step, tensors, {WIDTHS: widths})
    writer.write(save_averages, kept, settings.snapshot_every_steps, most)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """An average made of kept ones.

    Args:
        tensors: Its tensors, by name.
        step: The steps it is an average over.
        num_averages: How many it was made of.
        error: Distance of its profile from the wanted one, relative to that one's length.
    """

    tensors: Mapping[str, Tensor]
    step: int
    num_averages: int
    error: float


def reconstruct(run: Run, width: float, step: int | None = None) -> Reconstruction:
    """The power-function average of any relative width, from those that a run has kept.

    Args:
        run: Its folder.
        width: In (0, 12^-1/2].
        step: Steps to average over; by default those of the newest kept averages.

    Raises:
        ValueError: If the width is out of range, or nothing was kept up to this step.
        DataError: If a file is damaged.
    """
    found = [(folder, read_state(folder)) for folder in list_averages(run)]
    if not found:
        raise ValueError(
            f"{run.folder} has kept no averages: train it with --set "
            "'training.averages.widths=[0.05, 0.1]' and training.averages.snapshot_every_steps"
        )
    steps = [state["step"] for _, state in found]
    last = steps[-1] if step is None else step
    if not steps[0] <= last <= steps[-1]:
        raise ValueError(f"step must be in [{steps[0]}, {steps[-1]}], what was kept, got {step}")
    wanted = Profile(exponent_of(width), last)
    groups, profiles = [], []
    for folder, state in ((folder, state) for folder, state in found if state["step"] <= last):
        for name, each in state[WIDTHS].items():
            groups.append((folder, name))
            profiles.append(Profile(exponent_of(each), state["step"]))
    factors = coefficients(profiles, wanted)
    tensors = _combined(groups, factors)
    return Reconstruction(tensors, last, len(groups), _distance(profiles, factors, wanted))


def _distance(kept: Sequence[Profile], factors: np.ndarray, wanted: Profile) -> float:
    among = sum(
        x * y * overlap(a, b)
        for x, a in zip(factors, kept, strict=True)
        for y, b in zip(factors, kept, strict=True)
    )
    across = sum(x * overlap(a, wanted) for x, a in zip(factors, kept, strict=True))
    length = overlap(wanted, wanted)
    return max(0.0, float(1 + (among - 2 * across) / length)) ** 0.5


def _combined(groups: Sequence[tuple[Path, str]], factors: np.ndarray) -> dict[str, Tensor]:
    """The sum of kept averages, in float64, one of them in memory at a time."""
    sums: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    for (folder, group), factor in zip(groups, factors, strict=True):
        for name, value in load_group(folder, group).items():
            types[name] = value.dtype
            if not value.is_floating_point():
                sums[name] = value  # a counter: that of the newest
            elif name in sums:
                sums[name].add_(value.double(), alpha=float(factor))
            else:
                sums[name] = value.double() * float(factor)
    if not sums:
        raise DataError(f"{groups[-1][0]} holds averages without a tensor")
    return {name: total.to(types[name]) for name, total in sums.items()}
