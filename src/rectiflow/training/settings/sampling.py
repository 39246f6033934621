"""The `sampling` section: how pictures are drawn. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from rectiflow.config import STRICT
from rectiflow.training.settings.bounds import above, at_least, within

SolverName = Literal[
    "euler",
    "midpoint",
    "heun",
    "rk4",
    "dpmpp_2m",
    "dpmpp_2m_snr",
    "unipc_2",
    "unipc_3",
    "dopri5",
    "sde",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How pictures are drawn from the trained model, during training and by default after it.

    Args:
        num_steps: Steps of the solver.
        solver: Its name.
        tolerance: Of dopri5: error that it may make, relative and absolute.
        shift: Shift of the time grid; 1 is none.
        guidance_scale: Guidance; 1 is off.
        guidance_method: How the guided velocity is made.
        guidance_start: Guidance acts at times t with guidance_start < t <= guidance_end.
        guidance_end: See `guidance_start`.
        zero_init_steps: Of cfg_zero: steps at the beginning that stand still.
        apg_eta: Of apg: factor on what of the guidance is parallel to the predicted data.
        apg_norm: Of apg: bound of the guidance's norm, in predicted data; 0 is none.
        apg_momentum: Of apg: share of the guidance before, in (-1, 1); 0 is none.
        unconditional: `zeros` as trained, or `empty`, the encoding of "".
        num_pictures: Pictures of the grid drawn while training.
        seed: Seed of that grid.
    """

    __pydantic_config__ = STRICT

    num_steps: int = 25
    solver: SolverName = "euler"
    tolerance: float = 1e-5
    shift: float = 1.0
    guidance_scale: float = 4.0
    guidance_method: Literal["cfg", "cfg_zero", "apg"] = "cfg"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    zero_init_steps: int = 1
    apg_eta: float = 0.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0
    unconditional: Literal["zeros", "empty"] = "zeros"
    num_pictures: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("num_steps", self.num_steps, 1)
        at_least("num_pictures", self.num_pictures, 1)
        for name in ("guidance_scale", "guidance_start", "zero_init_steps", "apg_norm"):
            at_least(name, getattr(self, name), 0)
        for name in ("shift", "tolerance"):
            above(name, getattr(self, name), 0)
        above("guidance_end", self.guidance_end, self.guidance_start)
        within("guidance_end", self.guidance_end, 0, 1)
        within("apg_momentum", self.apg_momentum, -1, 1)
