"""How pictures are drawn, as one checked object."""

import math
from dataclasses import dataclass

from rectiflow.encoders.states import ENCODERS
from rectiflow.flow.solvers import SOLVERS


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How pictures are drawn.

    Args:
        num_images_per_prompt: Pictures for each prompt.
        seed: Picture i is a function of (seed, i), i counting through all pictures of a call.
        num_steps: Steps of the solver, >= 1.
        guidance_scale: Classifier-free guidance; 1 is off.
        negative: What to steer away from; "" is the model's own unconditional text.
        size: (width, height) in pixels; None is the size the model was trained at.
        solver: A name in `rectiflow.flow.solvers.SOLVERS`.
        shift: Moves the time grid towards noise; 1 is the uniform grid.
        without: Text encoders to leave out, names in `rectiflow.encoders.states.ENCODERS`.
        batch_size: Pictures drawn at once.

    Raises:
        ValueError: If a value is out of range.
    """

    num_images_per_prompt: int = 1
    seed: int = 0
    num_steps: int = 25
    guidance_scale: float = 4.0
    negative: str = ""
    size: tuple[int, int] | None = None
    solver: str = "euler"
    shift: float = 1.0
    without: tuple[str, ...] = ()
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("num_images_per_prompt", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite, got {self.guidance_scale}")
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift must be > 0, got {self.shift}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {sorted(SOLVERS)}, got {self.solver!r}")
        unknown = [name for name in self.without if name not in ENCODERS]
        if unknown:
            raise ValueError(f"without must name {', '.join(ENCODERS)}, got {unknown[0]!r}")
