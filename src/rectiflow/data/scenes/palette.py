"""Colours of the scenes, sRGB bytes.

Chosen for distance: at least 16.9 in CIEDE2000 between two colours (purple and blue) and 27
between a colour and the background, so that a blurred picture still has a nameable colour.
"""

from typing import Final

RGB = tuple[int, int, int]

BACKGROUND: Final[RGB] = (128, 128, 128)
PALETTE: Final[dict[str, RGB]] = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (30, 150, 50),
    "blue": (35, 75, 215),
    "purple": (125, 40, 165),
    "pink": (250, 140, 195),
    "brown": (115, 65, 25),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
COLORS: Final[tuple[str, ...]] = tuple(PALETTE)
WORD_COLORS: Final[tuple[str, ...]] = ("black", "white")
