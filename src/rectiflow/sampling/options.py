"""How pictures are drawn, as one checked object."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rectiflow.encoders.states import ENCODERS
from rectiflow.flow.solvers import SOLVERS
from rectiflow.flow.times import GRIDS, steps_between


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How pictures are drawn.

    Args:
        num_images_per_prompt: Pictures for each prompt.
        seed: Picture i is a function of (seed, i), i counting through all pictures of a call.
        num_steps: Steps of the solver, >= 1.
        guidance_scale: Classifier-free guidance; 1 is off.
        negative: What to steer away from; "" is the model's own unconditional text.
        size: (width, height) in pixels; None is the size the model was trained at, or that of the
            picture to start from.
        solver: A name in `rectiflow.flow.solvers.SOLVERS`.
        shift: Moves the time grid towards noise; 1 moves nothing.
        grid: A name in `rectiflow.flow.times.GRIDS`: `uniform`; `sd3`, in which the shift acts
            twice, as in the released SD3 samplers; `karras`, of EDM's noise levels. None is the
            formulation's own.
        skip_layers: Blocks that skip-layer guidance leaves out, counted from 0; none is off. The
            reference's for SD3.5 Medium are 7, 8, 9.
        skip_scale: Its strength, > 0.
        skip_start: It acts at steps i, counted from 0 through those that are run, with
            skip_start < i / num_steps < skip_end, both strict.
        skip_end: See `skip_start`.
        strength: Share of the steps that are run from a given picture, in (0, 1]; None is 0.6, or
            1 with a mask.
        without: Text encoders to leave out, names in `rectiflow.encoders.states.ENCODERS`.
        batch_size: Pictures drawn at once.

    Raises:
        ValueError: If a value is out of range, a negative is given without guidance, or skip-layer
            guidance would act at no step.
    """

    num_images_per_prompt: int = 1
    seed: int = 0
    num_steps: int = 25
    guidance_scale: float = 4.0
    negative: str = ""
    size: tuple[int, int] | None = None
    solver: str = "euler"
    shift: float = 1.0
    grid: str | None = None
    skip_layers: tuple[int, ...] = ()
    skip_scale: float = 2.5
    skip_start: float = 0.01
    skip_end: float = 0.20
    strength: float | None = None
    without: tuple[str, ...] = ()
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("num_images_per_prompt", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite, got {self.guidance_scale}")
        if self.negative and self.guidance_scale == 1:
            raise ValueError(
                f"negative {self.negative!r} would have no effect: guidance_scale 1 is off"
            )
        for name in ("shift", "skip_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name, known in (("solver", SOLVERS), ("grid", GRIDS)):
            given = getattr(self, name)
            if given is not None and given not in known:
                raise ValueError(f"{name} must be one of {sorted(known)}, got {given!r}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength}")
        unknown = [name for name in self.without if name not in ENCODERS]
        if unknown:
            raise ValueError(f"without must name {', '.join(ENCODERS)}, got {unknown[0]!r}")
        self._check_skipping()

    @property
    def skipping_steps(self) -> range:
        """Steps of a whole grid at which skip-layer guidance acts."""
        if not self.skip_layers:
            return range(0)
        return steps_between(self.num_steps, self.skip_start, self.skip_end)

    @property
    def network_calls(self) -> int:
        """How often a picture drawn from noise asks the network, counting one per text.

        Guidance asks for two texts, and skip-layer guidance once more at its steps.
        """
        texts = 1 if self.guidance_scale == 1 else 2
        velocities = texts * self.num_steps + len(self.skipping_steps)
        return SOLVERS[self.solver].calls_per_step * velocities

    def facts(self) -> dict[str, Any]:
        """What a picture's metadata tells of how it was drawn."""
        facts: dict[str, Any] = {
            "negative": self.negative,
            "seed": self.seed,
            "steps": self.num_steps,
            "guidance": self.guidance_scale,
            "solver": self.solver,
            "shift": self.shift,
            "without": " ".join(self.without),
        }
        if self.skip_layers:
            facts["skip_layers"] = " ".join(map(str, self.skip_layers))
            names = ("skip_scale", "skip_start", "skip_end")
            facts.update({name: getattr(self, name) for name in names})
        return facts

    def _check_skipping(self) -> None:
        layers = self.skip_layers
        if any(layer < 0 for layer in layers) or len(set(layers)) < len(layers):
            raise ValueError(f"skip_layers must be distinct and >= 0, got {layers}")
        if not 0 <= self.skip_start < self.skip_end <= 1:
            raise ValueError(
                f"skip_start and skip_end must be 0 <= start < end <= 1, "
                f"got {self.skip_start} and {self.skip_end}"
            )
        if layers and not self.skipping_steps:
            raise ValueError(
                f"skip_layers {layers} would have no effect: none of {self.num_steps} steps lies "
                f"between {self.skip_start} and {self.skip_end} of them; raise skip_end, take more "
                f"steps, or skip none"
            )


def with_changes(options: SamplingOptions, changes: Mapping[str, Any]) -> SamplingOptions:
    """Options of which some are changed.

    Raises:
        ValueError: If an option is unknown, out of range or without effect.
    """
    try:
        changed = replace(options, **changes)
    except TypeError as error:
        known = ", ".join(SamplingOptions.__dataclass_fields__)
        raise ValueError(f"{error}; known options: {known}") from error
    idle = {"skip_scale", "skip_start", "skip_end"} & changes.keys()
    if idle and not changed.skip_layers:
        raise ValueError(f"{', '.join(sorted(idle))} would have no effect without skip_layers")
    return changed
