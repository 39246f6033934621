"""Learning rate as a function of the step, and how many steps some minutes are."""

import math
import statistics
from collections.abc import Sequence

from rectiflow.training.settings.training import PACE_STEPS, TrainingSettings

PAUSE_FACTOR = 10.0


def rate_factor(step: int, num_steps: int | None, settings: TrainingSettings) -> float:
    """Factor on the learning rates for the step after `step` finished ones.

    Linear warm-up, plateau, decay to zero over the last `decay_fraction` of all steps. `num_steps`
    may be unknown (None) during the warm-up, which does not depend on it.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    if num_steps is None:
        raise ValueError(f"the number of steps must be known after the warm-up, at step {step}")
    start = max(settings.warmup_steps, num_steps - round(settings.decay_fraction * num_steps))
    if step < start:
        return 1.0
    # The last step still moves: the factor would reach 0 only after it.
    progress = (step - start) / (num_steps - start)
    return 1 - progress if settings.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2


def pace_of(seconds: Sequence[float]) -> float:
    """Seconds that a step takes: the mean of those measured.

    What took `PAUSE_FACTOR` times their median was a process that stood still meanwhile, in a
    suspended machine or by SIGSTOP, and is left out: the run would end after far too few steps.
    """
    longest = PAUSE_FACTOR * statistics.median(seconds)
    return statistics.fmean(each for each in seconds if each <= longest)


def steps_in(minutes: float, seconds_per_step: float) -> int:
    """Steps that fit into `minutes`, at least those that were needed to measure the rate."""
    return max(PACE_STEPS[1], round(minutes * 60 / seconds_per_step))
