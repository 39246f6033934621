"""Sections inside a recipe's `training`. Imports nothing heavy."""

from dataclasses import dataclass, field

from rectiflow.config import FREE, STRICT

WIDEST = 12**-0.5
"""Relative width of the plain mean of all weights, the widest of the power-function averages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragesSettings:
    """Averages of the weights beside that of `training.ema_decay`.

    Args:
        decays: Decay of each further exponential average, with the same warm-up.
        widths: Relative width sigma_rel of each power-function average (arXiv:2312.02696, 3.1).
        snapshot_every_steps: Cadence at which the latter are kept for good, to make an average of
            any width from afterwards (`rectiflow model average`). A run keeps num_steps over this
            many, each with one copy of the weights per width.
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
