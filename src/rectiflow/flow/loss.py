"""Losses are kept per sample: only the logger and the optimizer average them."""

import torch

from rectiflow.flow.paths import Sample, Times


def squared_error(output: Sample, target: Sample) -> Times:
    """Mean squared error of each sample over all its elements, shape (batch,), in float32."""
    dtype = torch.promote_types(target.dtype, torch.float32)
    return (output.to(dtype) - target.to(dtype)).square().flatten(1).mean(dim=1)
