"""Roll-backs: the run goes on from a checkpoint, with samples that come after those that failed.

The same samples would bring the same failure: a step is a function of the recipe and its number.
So, as for PaLM (arXiv:2204.02311, Section 5.1), those between the checkpoint and the failure
are passed over. Each roll-back is written down before the run goes on, and what a step sees
is a function of its number and of what is written there.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rectiflow.runs import Run, read_json, write_json

_KEY = "roll_backs"


@dataclass(frozen=True, slots=True)
class RollBack:
    """One return to a checkpoint.

    Args:
        step: The step that failed, counted from 1.
        to_step: Finished steps of the checkpoint.
        why: What failed.
    """

    step: int
    to_step: int
    why: str


def read_roll_backs(run: Run) -> list[RollBack]:
    """All that a run has taken, oldest first."""
    if not run.roll_backs_path.exists():
        return []
    return [RollBack(**each) for each in read_json(run.roll_backs_path)[_KEY]]


def add_roll_back(run: Run, roll_back: RollBack) -> None:
    """Write one down, durably."""
    taken = [*read_roll_backs(run), roll_back]
    write_json(run.roll_backs_path, {_KEY: [dataclasses.asdict(each) for each in taken]})


def num_skipped(roll_backs: Sequence[RollBack], step: int) -> int:
    """Batches passed over before the step that follows `step` finished ones."""
    return sum(each.step - each.to_step for each in roll_backs if each.to_step <= step)
