"""The pictures that were drawn while the model learned."""

from itertools import cycle, islice

from rectiflow.jobs.grids import SCENES_PROMPTS
from rectiflow.quickstart.findings import Learning
from rectiflow.runs import Run
from rectiflow.watching.records import sheet_steps
from rectiflow.watching.sheets import moments_of


def learning_of(run: Run, num_pictures: int, side_px: int) -> Learning:
    """Read some of the sheets in RUN/samples.

    Args:
        run: A run on scenes.
        num_pictures: Pictures of every sheet, its `sampling.num_pictures`.
        side_px: Side that the pictures were drawn at; on a sheet they may be enlarged.
    """
    moments = moments_of(run, sheet_steps(run), num_pictures, side_px)
    prompts = list(islice(cycle(SCENES_PROMPTS), num_pictures))
    return Learning(prompts=prompts, steps=moments.steps, pictures=moments.pictures)
