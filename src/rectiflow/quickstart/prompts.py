"""The fixed prompts that the fresh and the reference model draw side by side."""

from typing import Final

SEED: Final = 1  # of the noise; the grids drawn during training have another

SEEN: Final = (
    "a red square",
    "a yellow star",
    "three green circles",
    "five red crosses",
    "a white circle and a blue triangle",
    "a star above a square",
    "a red ring left of a black cross",
    "two purple stars and one green ring",
    'the word "SUN"',
    'the word "BLUE"',
    'the word "MOON" in black',
    'the word "HOUSE" in white',
)
UNSEEN: Final = (  # each holds a combination of `data.scenes.heldout`
    "a blue star",
    "two squares",
    "a star left of a triangle",
    'the word "MAP"',
)
PROMPTS: Final = SEEN + UNSEEN
