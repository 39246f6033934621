"""Keeping part of a picture while the rest is drawn."""

import torch
from jaxtyping import Bool
from torch import Tensor

from rectiflow.flow.paths import Path, Sample
from rectiflow.flow.steps import AfterStep


def keep_known(path: Path, data: Sample, noise: Sample, redrawn: Bool[Tensor, "..."]) -> AfterStep:
    """What a solver does after each step so that the known part of `data` stays.

    Where `redrawn` is false, x becomes the original noised to the time reached, always with the
    same `noise`, the one that the drawing began with: the known part follows its own path. At t = 0
    that is `data`, bit for bit.

    Args:
        path: Path of the flow.
        data: The original.
        noise: Standard normal noise, that of the beginning.
        redrawn: True where the solver's x is kept; broadcasts against `data`.
    """
    return lambda x, s: torch.where(redrawn, x, path.interpolate(data, noise, s))
