"""The pictures that were drawn while a model learned, cut from the sheets in RUN/samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rectiflow.runs import Run
from rectiflow.sampling.images import sheet_captions, sheet_pictures

Picture = UInt8[np.ndarray, "_ _ 3"]

NUM_MOMENTS = 7
MAX_PX = 128


@dataclass(frozen=True, slots=True)
class Moments:
    """Pictures of one run at several steps.

    Args:
        steps: Ascending.
        pictures: By moment, then by place on the sheet; the same prompt and noise at one place.
        captions: What stood below each on the newest sheet.
    """

    steps: Sequence[int]
    pictures: Sequence[Sequence[Picture]]
    captions: Sequence[Picture]


def moments_of(
    run: Run,
    steps: Sequence[int],
    num_pictures: int,
    drawn_px: int,
    num_moments: int = NUM_MOMENTS,
) -> Moments:
    """Read sheets of a run; one that is damaged, or gone meanwhile, is passed over.

    Args:
        run: Its folder.
        steps: Of the sheets that there are, ascending.
        num_pictures: Pictures of every sheet, its recipe's `sampling.num_pictures`.
        drawn_px: Side they were drawn at, its recipe's `data.size_px`; on a sheet they may be
            enlarged, which is undone. Larger ones are shrunk to `MAX_PX`.
        num_moments: Sheets that are read, the newest among them.
    """
    found: list[int] = []
    pictures: list[list[Picture]] = []
    captions: list[Picture] = []
    for step in spread(list(steps), num_moments):
        try:
            with Image.open(run.sheet_path(step)) as file:
                sheet = file.convert("RGB")
            cut = sheet_pictures(sheet, num_pictures)
            below = sheet_captions(sheet, num_pictures)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # Pillow tells a broken file, or one that is no sheet, by any of these
        found.append(step)
        pictures.append([np.asarray(_as_drawn(picture, drawn_px)) for picture in cut])
        captions = [np.asarray(caption) for caption in below]
    return Moments(found, pictures, captions)


def spread(steps: list[int], num: int) -> list[int]:
    """At most `num` of the steps, the first and the last among them, denser at the beginning.

    A model changes most at first, so the chosen ones lie evenly on a logarithmic scale.
    """
    if len(steps) <= num:
        return steps
    if num == 1:
        return steps[-1:]
    wanted = np.geomspace(max(1, steps[0]), steps[-1], num)
    chosen: list[int] = []
    for k, target in enumerate(wanted):
        # Leave one step for every choice that is still to come.
        first = steps.index(chosen[-1]) + 1 if chosen else 0
        free = steps[first : len(steps) - (num - 1 - k)]
        chosen.append(min(free, key=lambda step: abs(step - target)))
    return chosen


def _as_drawn(picture: Image.Image, drawn_px: int) -> Image.Image:
    if picture.width % drawn_px == 0:  # enlarged pixel by pixel, if at all
        picture = picture.resize((drawn_px, drawn_px), Image.Resampling.NEAREST)
    if picture.width > MAX_PX:
        picture = picture.resize((MAX_PX, MAX_PX), Image.Resampling.LANCZOS)
    return picture
