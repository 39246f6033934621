"""8-bit weights widened to a type that computes, with the scales that ComfyUI's files keep.

Such a file may hold a marker `scaled_fp8`, and `NAME.scale_weight` beside `NAME.weight`: the
weight meant is the product, which is formed in float32. The scale is one number or one per row; a
weight without one is its bare value, as in ComfyUI. A scale of the activations
(`NAME.scale_input`) belongs to 8-bit arithmetic and is ignored.
"""

from collections.abc import Container

import torch
from torch import Tensor

from rectiflow.errors import DataError

DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
_MARKER, _WEIGHT_SCALE, _INPUT_SCALE = "scaled_fp8", ".scale_weight", ".scale_input"


def is_no_weight(name: str, names: Container[str]) -> bool:
    """Whether a tensor only tells how 8-bit weights are meant.

    Args:
        name: The tensor.
        names: All tensors of its file.
    """
    if name.rpartition(".")[2] == _MARKER:
        return True
    for suffix in (_WEIGHT_SCALE, _INPUT_SCALE):
        if name.endswith(suffix):
            return name.removesuffix(suffix) + ".weight" in names
    return False


def scale_name(name: str) -> str:
    """Where the scale of the weight `name` lies, if it has one."""
    return name.removesuffix(".weight") + _WEIGHT_SCALE


def widened(
    value: Tensor, scale: Tensor | None, dtype: torch.dtype, *, name: str, origin: str
) -> Tensor:
    """The weight that is meant: an 8-bit one in `dtype`, any other as it is.

    Args:
        value: As stored.
        scale: Beside it in the file: one number, or one per row; None if there is none.
        dtype: Of the result for an 8-bit weight.
        name: Of the weight, for the message.
        origin: Of the file, for the message.

    Raises:
        DataError: If the scale is of a weight that is not 8-bit, or fits no shape.
    """
    if value.dtype not in DTYPES:
        if scale is not None:
            raise DataError(f"{origin}: {name} has a scale, but is {value.dtype}, not 8-bit")
        return value
    if scale is None:
        return value.to(dtype)
    if value.ndim == 0 or scale.numel() not in (1, value.shape[0]):
        raise DataError(
            f"{origin}: {name} of shape {list(value.shape)} needs one scale or one per row, "
            f"got {list(scale.shape)}"
        )
    rows = scale.float().reshape(-1, *(1,) * (value.ndim - 1))
    return (value.float() * rows).to(dtype)
