"""The pictures that were drawn while the model learned."""

from itertools import cycle, islice

import numpy as np
from PIL import Image

from rectiflow.jobs.grids import SCENES_PROMPTS
from rectiflow.quickstart.findings import Learning
from rectiflow.runs import Run
from rectiflow.sampling.images import sheet_pictures

NUM_MOMENTS = 7


def learning_of(run: Run, num_pictures: int, side_px: int) -> Learning:
    """Read RUN/samples, at most `NUM_MOMENTS` of its sheets.

    Args:
        run: A run on scenes.
        num_pictures: Pictures of every sheet, its `sampling.num_pictures`.
        side_px: Side that the pictures were drawn at; on a sheet they may be enlarged.
    """
    sheets = {int(p.stem.removeprefix("step-")): p for p in run.samples.glob("step-*.png")}
    steps = spread(sorted(sheets), NUM_MOMENTS)
    pictures = []
    for step in steps:
        with Image.open(sheets[step]) as sheet:
            cut = sheet_pictures(sheet.convert("RGB"), num_pictures)
        small = (picture.resize((side_px, side_px), Image.Resampling.NEAREST) for picture in cut)
        pictures.append([np.asarray(picture) for picture in small])
    prompts = list(islice(cycle(SCENES_PROMPTS), num_pictures))
    return Learning(prompts=prompts, steps=steps, pictures=pictures)


def spread(steps: list[int], num: int) -> list[int]:
    """At most `num` of the steps, the first and the last among them, denser at the beginning.

    A model changes most at first, so the chosen ones lie evenly on a logarithmic scale.
    """
    if len(steps) <= num:
        return steps
    wanted = np.geomspace(steps[0], steps[-1], num)
    chosen: list[int] = []
    for k, target in enumerate(wanted):
        # Leave one step for every choice that is still to come.
        first = steps.index(chosen[-1]) + 1 if chosen else 0
        free = steps[first : len(steps) - (num - 1 - k)]
        chosen.append(min(free, key=lambda step: abs(step - target)))
    return chosen
