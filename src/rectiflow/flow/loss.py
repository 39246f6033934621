"""Losses are kept per sample: only the logger and the optimizer average them."""

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.flow.paths import Sample, Times


def squared_error(output: Sample, target: Sample) -> Times:
    """Mean squared error of each sample over all its elements, shape (batch,), in float32."""
    dtype = torch.promote_types(target.dtype, torch.float32)
    return (output.to(dtype) - target.to(dtype)).square().flatten(1).mean(dim=1)


def mean_per_bin(loss: Times, t: Times, num_bins: int = 10) -> Float[Tensor, " bins"]:
    """Mean loss in each of `num_bins` equal intervals of time; NaN where no sample fell.

    Bin k holds the times in [k / num_bins, (k + 1) / num_bins); t = 1 belongs to the last.
    """
    bins = (t * num_bins).long().clamp(0, num_bins - 1)
    total = torch.zeros(num_bins, dtype=loss.dtype, device=loss.device).index_add(0, bins, loss)
    count = torch.bincount(bins, minlength=num_bins)
    return total / count  # 0 / 0 is NaN
