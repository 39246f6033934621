"""How pictures are drawn, as one checked object."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rectiflow.encoders.states import ENCODERS
from rectiflow.flow.adaptive import require_torchdiffeq
from rectiflow.flow.solvers import SOLVERS
from rectiflow.flow.steps import TOLERANCE
from rectiflow.flow.times import GRIDS, steps_between

GUIDANCE_METHODS = ("cfg", "cfg_zero", "apg")
_APG: tuple[str, ...] = ("apg_eta", "apg_norm", "apg_momentum")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How pictures are drawn.

    Args:
        num_images_per_prompt: Pictures for each prompt.
        seed: Picture i is a function of (seed, i), i counting through all pictures of a call.
        num_steps: Steps of the solver, >= 1.
        guidance_scale: Guidance; 1 is off.
        guidance_method: A name in `GUIDANCE_METHODS`: how the guided velocity is made, see
            `rectiflow.flow.guidance`.
        guidance_start: Guidance acts at times t with guidance_start < t <= guidance_end; the whole
            interval, 0 to 1, holds t = 0 too.
        guidance_end: See `guidance_start`.
        zero_init_steps: Of cfg_zero: steps at the beginning that stand still.
        apg_eta: Of apg: factor on what of the guidance is parallel to the predicted data.
        apg_norm: Of apg: bound of the guidance's norm, in predicted data; 0 is none.
        apg_momentum: Of apg: share of the guidance before, in (-1, 1); 0 is none.
        negative: What to steer away from; "" is the model's own unconditional text.
        size: (width, height) in pixels; None is the size the model was trained at, or that of the
            picture to start from.
        solver: A name in `rectiflow.flow.solvers.SOLVERS`.
        tolerance: Of dopri5: error that it may make, relative and absolute. Of the grid it takes
            the ends only, and it draws one picture at a time.
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
    guidance_method: str = "cfg"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    zero_init_steps: int = 1
    apg_eta: float = 0.0
    apg_norm: float = 0.0
    apg_momentum: float = 0.0
    solver: str = "euler"
    tolerance: float = TOLERANCE
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
        for name in ("shift", "skip_scale", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        names = {"solver": SOLVERS, "grid": GRIDS, "guidance_method": GUIDANCE_METHODS}
        for name, known in names.items():
            given = getattr(self, name)
            if given is not None and given not in known:
                raise ValueError(f"{name} must be one of {sorted(known)}, got {given!r}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength}")
        unknown = [name for name in self.without if name not in ENCODERS]
        if unknown:
            raise ValueError(f"without must name {', '.join(ENCODERS)}, got {unknown[0]!r}")
        self._check_guidance()
        self._check_skipping()
        self._check_adaptive()

    @property
    def is_adaptive(self) -> bool:
        """Whether the solver takes steps of its own."""
        return SOLVERS[self.solver].is_adaptive

    @property
    def num_drawn_at_once(self) -> int:
        """Pictures in a batch: one where steps are chosen by the error of the whole batch."""
        return 1 if self.is_adaptive else self.batch_size

    @property
    def num_still_steps(self) -> int:
        """Steps at the beginning that stand still."""
        is_on = self.guidance_method == "cfg_zero" and self.guidance_scale != 1
        return self.zero_init_steps if is_on else 0

    @property
    def skipping_steps(self) -> range:
        """Steps of a whole grid at which skip-layer guidance acts."""
        if not self.skip_layers:
            return range(0)
        return steps_between(self.num_steps, self.skip_start, self.skip_end)

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
        told: tuple[str, ...] = ()
        if self.guidance_scale != 1:
            told += ("guidance_method", "guidance_start", "guidance_end")
            told += {"cfg_zero": ("zero_init_steps",), "apg": _APG}.get(self.guidance_method, ())
        if self.skip_layers:
            facts["skip_layers"] = " ".join(map(str, self.skip_layers))
            told += ("skip_scale", "skip_start", "skip_end")
        told += ("tolerance",) if self.is_adaptive else ()
        facts.update({name: getattr(self, name) for name in told})
        return facts

    def _check_guidance(self) -> None:
        if not 0 <= self.guidance_start < self.guidance_end <= 1:
            raise ValueError(
                f"guidance_start and guidance_end must be 0 <= start < end <= 1, "
                f"got {self.guidance_start} and {self.guidance_end}"
            )
        if self.zero_init_steps < 0:
            raise ValueError(f"zero_init_steps must be >= 0, got {self.zero_init_steps}")
        if not math.isfinite(self.apg_eta):
            raise ValueError(f"apg_eta must be finite, got {self.apg_eta}")
        if not 0 <= self.apg_norm < math.inf:
            raise ValueError(f"apg_norm must be >= 0, got {self.apg_norm}")
        if not -1 < self.apg_momentum < 1:
            raise ValueError(f"apg_momentum must be in (-1, 1), got {self.apg_momentum}")
        is_remembering = self.guidance_method == "apg" and self.apg_momentum != 0
        if is_remembering and SOLVERS[self.solver].stages != (0,):
            once = [name for name, solver in SOLVERS.items() if solver.stages == (0,)]
            raise ValueError(
                f"apg_momentum remembers the step before, so the solver must ask once in each, as "
                f"{', '.join(once)}; got {self.solver}"
            )

    def _check_adaptive(self) -> None:
        if not self.is_adaptive:
            return
        require_torchdiffeq()
        counted = {"skip_layers": self.skip_layers, "zero_init_steps": self.num_still_steps}
        for name, value in counted.items():
            if value:
                raise ValueError(
                    f"{name} {value} count steps of the grid, and {self.solver} takes steps of "
                    "its own: take another solver"
                )

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
    refuse_idle(changed, changes)
    return changed


def refuse_idle(options: SamplingOptions, chosen: Iterable[str]) -> None:
    """Refuse options that somebody chose and that change nothing beside the others.

    Raises:
        ValueError: If there is one.
    """
    for names, is_idle, why in _idle(options):
        if is_idle and (given := sorted(names & set(chosen))):
            raise ValueError(f"{', '.join(given)} would have no effect {why}")


def _idle(options: SamplingOptions) -> list[tuple[set[str], bool, str]]:
    """Options, whether they would have no effect, and why."""
    method, zero = options.guidance_method, {"zero_init_steps"}
    apg = set(_APG)
    guidance = {"guidance_method", "guidance_start", "guidance_end"} | zero | apg
    skip = {"skip_scale", "skip_start", "skip_end"}
    grid = {"num_steps", "shift", "grid", "batch_size"}
    is_whole = options.is_adaptive and options.strength is None
    return [
        (skip, not options.skip_layers, "without skip_layers"),
        (guidance, options.guidance_scale == 1, "at guidance_scale 1"),
        (zero, method != "cfg_zero", "without guidance_method cfg_zero"),
        (apg, method != "apg", "without guidance_method apg"),
        ({"tolerance"}, not options.is_adaptive, "without an adaptive solver, as dopri5"),
        (grid, is_whole, f"with solver {options.solver}, which takes steps of its own"),
    ]
