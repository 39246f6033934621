"""Sections inside a recipe's `training`. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from rectiflow.config import FREE, STRICT
from rectiflow.training.settings.bounds import at_least

WIDEST = 12**-0.5
"""Relative width of the plain mean of all weights, the widest of the power-function averages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragesSettings:
    """Averages of the weights beside that of `training.ema_decay`.

    Args:
        decays: Decay of each further exponential average, with the same warm-up.
        widths: Relative width sigma_rel of each power-function average (arXiv:2312.02696, 3.1).
        snapshot_every_steps: Cadence at which the latter are kept, to make an average of any
            width from afterwards (`rectiflow model average`). A run keeps num_steps over this
            many, at most `training.retain.num_averages`, each with one copy of the weights per
            width.
    """

    __pydantic_config__ = STRICT

    decays: tuple[float, ...] = ()
    widths: tuple[float, ...] = ()
    snapshot_every_steps: int = field(default=0, metadata=FREE)

    def __post_init__(self) -> None:
        for name in ("decays", "widths"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other, got {list(values)}")
        for decay in self.decays:
            if not 0 <= decay < 1:
                raise ValueError(f"decays must be in [0, 1), got {decay}")
        for width in self.widths:
            if not 0 < width <= WIDEST:
                raise ValueError(
                    f"widths must be in (0, {WIDEST:.4f}], that of the mean of all, got {width}"
                )
        if self.snapshot_every_steps < 0 or bool(self.snapshot_every_steps) != bool(self.widths):
            raise ValueError(
                "snapshot_every_steps must be >= 1 where widths are given, and 0 where none are, "
                f"got {self.snapshot_every_steps} and widths {list(self.widths)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardSettings:
    """What happens when a loss or gradient is inf or nan, or a gradient is a spike.

    The run's folder tells each case: step, first bad module, loss per tenth of time, samples.
    All may be changed when a run is resumed: also that of a run which stopped so.

    Args:
        on_divergence: `stop`, or `roll_back` to the newest checkpoint and go on with the samples
            that follow the ones that failed. Every sample passed over is in `roll_backs.json`.
        max_roll_backs: Of a whole run; after so many it stops.
        spike_factor: A gradient whose norm is more than this many times the median of the
            last 100 steps is a spike; 0 looks for none.
    """

    __pydantic_config__ = STRICT

    on_divergence: Literal["stop", "roll_back"] = field(default="stop", metadata=FREE)
    max_roll_backs: int = field(default=3, metadata=FREE)
    spike_factor: float = field(default=0.0, metadata=FREE)

    def __post_init__(self) -> None:
        if self.max_roll_backs < 1:
            raise ValueError(f"max_roll_backs must be >= 1, got {self.max_roll_backs}")
        if self.spike_factor != 0 and self.spike_factor <= 1:
            raise ValueError(f"spike_factor must be 0 or > 1, got {self.spike_factor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetainSettings:
    """What a run's folder keeps; all of it is bounded, however long the run.

    What is bounded by a number is thinned evenly: before there would be more, those of every
    other step go (see `training.retention`).

    Args:
        newest: Newest checkpoints that are kept.
        best: Whether to keep, beside these, the weights and their average of the step at which
            the average had the least validation loss.
        every_steps: Checkpoints of these steps, which are written whatever the other cadences
            say, stay as milestones; 0 keeps none.
        num_milestones: Most of them.
        num_averages: Most kept averages (`training.averages.snapshot_every_steps`), beside those
            of the last step.
        num_sheets: Most sheets of pictures, beside that of the last step.
    """

    __pydantic_config__ = STRICT

    newest: int = field(default=2, metadata=FREE)
    best: bool = field(default=False, metadata=FREE)
    every_steps: int = field(default=0, metadata=FREE)
    num_milestones: int = field(default=8, metadata=FREE)
    num_averages: int = field(default=64, metadata=FREE)
    num_sheets: int = field(default=128, metadata=FREE)

    def __post_init__(self) -> None:
        for name in ("newest", "num_milestones", "num_averages", "num_sheets"):
            at_least(name, getattr(self, name), 1)
        at_least("every_steps", self.every_steps, 0)
