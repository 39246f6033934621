"""Guidance as sampling options ask for it: which methods, at which times, at what cost."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn, tensor

from rectiflow.conditioning import Conditioning, cat
from rectiflow.flow.formulations import Formulation
from rectiflow.flow.guidance import (
    Guidance,
    Linear,
    OptimizedScale,
    Projected,
    Rule,
    SkipLayers,
    guided,
    without_strength,
    without_text,
)
from rectiflow.flow.paths import Path
from rectiflow.flow.solvers import SOLVERS
from rectiflow.flow.steps import Velocity, stage_times
from rectiflow.flow.times import Window, steps_between, window_of_steps
from rectiflow.sampling.options import SamplingOptions


@dataclass(frozen=True)
class Guide:
    """A weaker model to lead away from (autoguidance).

    Args:
        network: Called as the network it guides, with the same latents and text.
        formulation: What its output means; of the same path.
        sha256: Of its weights.
    """

    network: nn.Module
    formulation: Formulation
    sha256: str


class Windows(NamedTuple):
    """When what acts; None is never, but for guidance always.

    Attributes:
        guidance: Where the velocity is guided.
        skip: Where blocks are left out on top.
    """

    guidance: Window | None
    skip: Window | None


def guided_velocity(
    network: nn.Module,
    formulation: Formulation,
    texts: tuple[Conditioning, Conditioning],
    times: Float[Tensor, " times"],
    options: SamplingOptions,
    guide: Guide | None = None,
) -> Velocity:
    """The velocity field that options ask for, for one integration.

    Args:
        network: Called as network(x, t, conditioning).
        formulation: What its output means.
        texts: What to draw and what to lead away from, one of each for each picture.
        times: The steps that are run, of a whole grid or the end of one, and with them those that
            stand still.
        options: Of sampling.
        guide: Leads away from its velocity instead of that without text.

    Raises:
        ValueError: If a method cannot act, or cannot serve this network or path.
    """
    windows = windows_of(options, formulation, times)
    field, cond = formulation.field(network), texts[0]
    guidance = skip = None
    if options.guidance_scale != 1:
        pair = (
            without_text(field, cat(*texts))
            if guide is None
            else without_strength(field, guide.formulation.field(guide.network), cond)
        )
        guidance = Guidance(pair, rule_of(options, formulation.path), windows.guidance)
    if windows.skip:
        check_skipping(network, options.skip_layers)
        fewer = formulation.field(partial(network, skip_blocks=options.skip_layers))
        skip = SkipLayers(fewer, options.skip_scale, windows.skip)
    return guided(field, cond, guidance, skip)


def moving_times(
    options: SamplingOptions, formulation: Formulation, times: Float[Tensor, " times"]
) -> Float[Tensor, " rest"]:
    """Times without the first steps, which stand still (CFG-Zero*, arXiv:2503.18886, Sec. 4.2).

    What a network says of nearly pure noise may lead further astray than standing still. No solver
    sees these steps: none asks at their ends, remembers them, or draws noise in them.

    Raises:
        ValueError: If no step is left, or noise shrinks along the path.
    """
    num_still, num_steps = options.num_still_steps, len(times) - 1
    if not num_still:
        return times
    if num_still >= num_steps:
        raise ValueError(
            f"zero_init_steps must be < the steps that are run, {num_steps}, "
            f"got {options.zero_init_steps}"
        )
    _check_standing_still(formulation)
    return times[num_still:]


def rule_of(options: SamplingOptions, path: Path) -> Rule:
    """The rule of the options' `guidance_method`, for one integration."""
    if options.guidance_method == "cfg_zero":
        return OptimizedScale(options.guidance_scale)
    if options.guidance_method == "apg":
        limits = options.apg_eta, options.apg_norm, options.apg_momentum
        return Projected(options.guidance_scale, path, *limits)
    return Linear(options.guidance_scale)


def num_network_calls(options: SamplingOptions, formulation: Formulation) -> int | None:
    """How often a picture drawn from noise asks a network, counting one per text.

    Guidance asks once more at its times, for another text or a weaker network, and so does
    skip-layer guidance. None for an adaptive solver, which asks as often as it must.
    """
    stages = SOLVERS[options.solver].stages
    if not stages:
        return None
    times = formulation.times(options.num_steps, options.shift, options.grid)
    windows = windows_of(options, formulation, times)
    moving = moving_times(options, formulation, times)
    asked = stage_times(formulation.path, moving, stages).flatten().float()
    num_guided = len(asked) if options.guidance_scale != 1 else 0
    if num_guided and windows.guidance:
        num_guided = int(windows.guidance.holds(asked).sum())
    num_skipped = int(windows.skip.holds(asked).sum()) if windows.skip else 0
    return len(asked) + num_guided + num_skipped


def windows_of(
    options: SamplingOptions, formulation: Formulation, times: Float[Tensor, " times"]
) -> Windows:
    """When what acts, of the steps that are run.

    Steps are counted from 0 also when drawing starts from a picture, as the reference counts them.

    Raises:
        ValueError: If something that is asked for would act at no step, or cannot stand still.
    """
    num_steps = len(times) - 1
    skip = None
    if options.skip_layers:
        asked = steps_between(options.num_steps, options.skip_start, options.skip_end)
        if not (steps := asked[: max(num_steps - asked.start, 0)]):
            raise ValueError(
                f"skip_layers {options.skip_layers} would have no effect: they act from step "
                f"{asked.start} on, and the strength leaves {num_steps} to run"
            )
        skip = window_of_steps(times, steps)
    return Windows(_guidance_window(options, moving_times(options, formulation, times)), skip)


def _guidance_window(options: SamplingOptions, times: Tensor) -> Window | None:
    start, end = options.guidance_start, options.guidance_end
    if options.guidance_scale == 1 or (start, end) == (0, 1):
        return None
    window = Window(start if start > 0 else -1.0, end)
    is_adaptive = SOLVERS[options.solver].is_adaptive
    if not is_adaptive and not window.holds(times[:-1].float()).any():
        raise ValueError(
            f"guidance from {start} to {end} would have no effect: no step begins at a time "
            f"there; of {len(times) - 1} the last begins at {times[-2].item():.3f}"
        )
    return window


def check_skipping(network: Any, layers: tuple[int, ...]) -> None:
    """Refuse to leave blocks out of a network that has no such blocks.

    Raises:
        ValueError: If the network is of another kind, or has fewer blocks.
    """
    if not layers:
        return
    if "skip_blocks" not in inspect.signature(network.forward).parameters:
        raise ValueError(
            f"skip_layers {layers} need a network that can leave blocks out, as MM-DiT can; "
            f"{type(network).__name__} cannot"
        )
    if max(layers) >= network.config.depth:
        raise ValueError(
            f"skip_layers must be blocks from 0 to {network.config.depth - 1}, got {layers}"
        )


def check_guide(
    guide: Guide | None, network: Any, formulation: Formulation, options: SamplingOptions
) -> None:
    """Refuse a weaker model of other latents, another text or path, or one without effect.

    Raises:
        ValueError: If it cannot lead this network, or the options do not let it.
    """
    if guide is None:
        return
    if options.guidance_scale == 1:
        raise ValueError("a guide would have no effect: guidance_scale 1 is off")
    if options.negative:
        raise ValueError(
            f"negative {options.negative!r} would have no effect beside a guide, whose text is "
            "the prompt"
        )
    if guide.formulation.path != formulation.path:
        raise ValueError(
            f"a guide must be of the same path, got {formulation.name} guided by "
            f"{guide.formulation.name}"
        )
    weaker: Any = guide.network
    for name in ("latent_channels", "context_width", "pooled_width"):
        ours, theirs = (getattr(n.config, name, None) for n in (network, weaker))
        if ours != theirs:
            raise ValueError(
                f"a guide must have the same {name}, got {theirs} for a network of {ours}"
            )


def _check_standing_still(formulation: Formulation) -> None:
    """Refuse to stand still where the noise itself shrinks along the path."""
    path = formulation.path
    end = path.coefficients(tensor([path.max_time])).sigma.item()
    if end > 1.01:
        raise ValueError(
            f"zero_init_steps need a path whose noise keeps its size, as rectified flow; that of "
            f"{formulation.name} begins at sigma {end:g}: give zero_init_steps 0"
        )
