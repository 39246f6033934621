"""Which files of a run's past stay: pure functions of steps, so that a kill changes nothing.

Whatever is written again and again is thinned evenly: once there would be more than allowed, those
of every other step go, and from then on only those of twice the cadence stay. So half of the bound
at least is always there, spread over the whole run.
"""

from collections.abc import Sequence

from rectiflow.runs import Run
from rectiflow.training.settings.sections import RetainSettings


def outdated(steps: Sequence[int], retain: RetainSettings) -> list[int]:
    """Checkpoints that go.

    Args:
        steps: Of all that are there, ascending.
        retain: How many stay.

    Returns:
        Steps, ascending; never one of the `retain.newest` last.
    """
    kept = set(steps[-retain.newest :])
    if retain.every_steps and steps:
        kept |= _spread(steps, retain.every_steps, retain.num_milestones)
    return [step for step in steps if step not in kept]


def thinned_out(steps: Sequence[int], every_steps: int, most: int) -> list[int]:
    """Steps, ascending, of what goes where at most `most` are to stay.

    What the last step left is kept beside. Until the first thinning nothing goes, also not what
    was written at another cadence.

    Args:
        steps: Of all that are there, ascending.
        every_steps: The cadence; 0 writes only at the end.
        most: At least 1.
    """
    if len(steps) <= 1 or not every_steps or steps[-1] // every_steps <= most:
        return []
    kept = {steps[-1]} | _spread(steps, every_steps, most)
    return [step for step in steps if step not in kept]


def remove_sheets(run: Run, every_steps: int, most: int) -> None:
    """Thin out the sheets of pictures, RUN/samples/step-00001000.png."""
    sheets = {int(path.stem[len("step-") :]): path for path in run.samples.glob("step-[0-9]*.png")}
    for step in thinned_out(sorted(sheets), every_steps, most):
        sheets[step].unlink(missing_ok=True)


def _spread(steps: Sequence[int], every_steps: int, most: int) -> set[int]:
    """Those at multiples of the least doubling of the cadence with at most `most` of them so far.

    The doubling depends on the last step alone: what a run that was stopped and resumed keeps is
    what one that was not does.
    """
    stride = every_steps
    while steps[-1] // stride > most:
        stride *= 2
    return {step for step in steps if step % stride == 0}
