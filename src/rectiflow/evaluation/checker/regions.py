"""Connected regions and distances on masks (scipy.ndimage with types)."""

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

EIGHT: Final = np.ones((3, 3), bool)  # strokes of letters meet at corners only


def labelled(mask: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "h w"], int]:
    """Number of the 8-connected region at every pixel, 0 outside, and how many there are."""
    found: Any = ndimage.label(mask, EIGHT)
    return found[0], found[1]


def depth_inside(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Distance of every pixel from the outside of a mask; beyond the window is outside."""
    found: Any = ndimage.distance_transform_edt(np.pad(mask, 1))
    return found[1:-1, 1:-1]


def grown(owner: Int[np.ndarray, "h w"], reach_px: float) -> Int[np.ndarray, "h w"]:
    """Numbered regions, with every pixel within reach given to the nearest of them."""
    found: Any = ndimage.distance_transform_edt(owner == 0, return_indices=True)
    far, place = found
    nearest = owner[tuple(place)]
    nearest[far > reach_px] = 0
    return nearest


def outline_of(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels outside a mask that touch it."""
    return ndimage.binary_dilation(mask, EIGHT) & ~mask
