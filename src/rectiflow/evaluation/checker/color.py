"""From bytes to CIELAB, and from a colour in CIELAB to a name in the palette.

A blurred thin stroke never reaches its own colour: it stops part of the way from the background.
So a name is matched not to a point but to the segment from the background to the palette colour,
of which only the far part counts.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, Int, UInt8

from rectiflow.data.scenes import PALETTE

NAMES: Final = tuple(PALETTE)
# From half way to a little over the full colour, as guidance over-saturates.
REACHES: Final = np.linspace(0.4, 1.1, 8, dtype=np.float32)
SHORTFALL_PENALTY: Final = 8.0  # CIELAB units for a reach of 0 instead of 1

# sRGB D65 to CIEXYZ divided by the white point (IEC 61966-2-1), so that white is (1, 1, 1).
_XYZ_OF_LINEAR: Final = (
    np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    / np.array([[0.9505], [1.0], [1.0890]])
).astype(np.float32)
_LAB_OF_CUBE_ROOT: Final = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]], dtype=np.float32)
_BYTES: Final = np.arange(256) / 255
_LINEAR: Final = np.where(
    _BYTES <= 0.04045, _BYTES / 12.92, ((_BYTES + 0.055) / 1.055) ** 2.4
).astype(np.float32)


def to_lab(image_u8: UInt8[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """CIELAB (D65, 2 degrees) of sRGB bytes, float32: L in [0, 100]."""
    xyz = _LINEAR[image_u8] @ _XYZ_OF_LINEAR.T
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = root @ _LAB_OF_CUBE_ROOT.T
    lab[..., 0] -= 16
    return lab


@dataclass(frozen=True)
class Rays:
    """Points on the segments from one background to every palette colour.

    Args:
        lab: The points in CIELAB.
        color: Index into `NAMES`, for every point.
        reach: How far along its segment every point lies; 1 at the palette colour.
        penalty: Added to a point's distance: it grows as the point nears the background, where
            the segments meet and names mean little.
    """

    lab: Float[np.ndarray, "points 3"]
    color: Int[np.ndarray, " points"]
    reach: Float[np.ndarray, " points"]
    penalty: Float[np.ndarray, " points"]

    def nearest(
        self, lab: Float[np.ndarray, "n 3"], among: tuple[int, ...] = ()
    ) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Index of the nearest palette colour, its reach and its penalised distance, by row.

        Args:
            lab: Colours in CIELAB.
            among: Only these palette colours; empty for all.
        """
        keep = np.isin(self.color, among) if among else np.ones(len(self.color), bool)
        points = self.lab[keep]
        square = (lab**2).sum(1)[:, None] - 2 * lab @ points.T + (points**2).sum(1)
        distance = np.sqrt(np.maximum(square, 0)) + self.penalty[keep]
        best = distance.argmin(1)
        nearest = distance[np.arange(len(lab)), best]
        return self.color[keep][best], self.reach[keep][best], nearest


@lru_cache(maxsize=256)
def rays_from(background: tuple[int, int, int]) -> Rays:
    """Segments from a background (sRGB bytes) to every palette colour."""
    origin = np.array(background, np.float32)
    ends = np.array([PALETTE[name] for name in NAMES], np.float32)
    points = origin + REACHES[:, None, None] * (ends - origin)
    lab = to_lab(np.clip(np.rint(points), 0, 255).astype(np.uint8))
    color = np.broadcast_to(np.arange(len(NAMES)), points.shape[:2])
    reach = np.broadcast_to(REACHES[:, None], points.shape[:2]).reshape(-1)
    penalty = np.maximum(1 - reach, 0) * SHORTFALL_PENALTY
    return Rays(lab.reshape(-1, 3), color.reshape(-1), reach, penalty.astype(np.float32))


def coverage_of(
    image_u8: UInt8[np.ndarray, "h w 3"], background: tuple[int, int, int], color: int
) -> Float[np.ndarray, "h w"]:
    """How far every pixel is from the background to a palette colour: 0 there, 1 at the colour.

    Mixing is linear in the bytes, so for an object of that colour this is the fraction of the
    pixel that it covers, blurred if the picture is.
    """
    origin = np.array(background, np.float32)
    axis = np.array(PALETTE[NAMES[color]], np.float32) - origin
    return (image_u8 - origin) @ (axis / (axis @ axis))
