"""From noise to latents: time grid, guidance, solver and what a picture to start from changes."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning, cat
from rectiflow.flow.formulations import Formulation
from rectiflow.flow.guidance import SkipLayers, guided
from rectiflow.flow.inpainting import keep_known
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import remaining_times, steps_between, window_of_steps
from rectiflow.sampling.options import SamplingOptions


@dataclass(frozen=True)
class Start:
    """A latent that drawing starts from.

    Args:
        latent: The same for every picture of the batch.
        redrawn: Where it is drawn anew; None is everywhere.
        strength: Share of the steps to run, in (0, 1].
    """

    latent: Float[Tensor, "1 channels rows columns"]
    redrawn: Bool[Tensor, "1 1 rows columns"] | None
    strength: float


def carry(
    network: nn.Module,
    formulation: Formulation,
    noise: Float[Tensor, "batch channels rows columns"],
    cond: Conditioning,
    uncond: Conditioning,
    options: SamplingOptions,
    start: Start | None = None,
) -> Float[Tensor, "batch channels rows columns"]:
    """Carry noise to latents, one text for each.

    With a `start`, its latent is noised to the first time that its strength leaves of the grid, and
    only the rest is run; what is not redrawn follows the path of that latent and `noise`, and is
    the latent itself in the end.

    Raises:
        ValueError: If skip-layer guidance is asked for and cannot act.
    """
    times = formulation.times(options.num_steps, options.shift, options.grid)
    if start is not None:
        times = remaining_times(times, start.strength)
    skip = _skip(network, formulation, times, options)
    velocity = guided(
        formulation.field(network), cond, cat(cond, uncond), options.guidance_scale, skip
    )
    solver, path = SOLVERS[options.solver], formulation.path
    if start is None:
        return integrate(velocity, path.beginning(noise), times, solver, path=path)
    data = start.latent.to(noise).expand_as(noise)
    first = times[:1].to(noise).expand(len(noise))
    keep = start.redrawn is not None and keep_known(
        path, data, noise, start.redrawn.to(noise.device)
    )
    x = path.interpolate(data, noise, first)
    return integrate(velocity, x, times, solver, path=path, after_step=keep or None)


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


def _skip(
    network: nn.Module, formulation: Formulation, times: Tensor, options: SamplingOptions
) -> SkipLayers[Conditioning] | None:
    """Skip-layer guidance at its steps among those that are run.

    They are counted from 0 also when drawing starts from a picture, as the reference counts them.
    """
    if not options.skip_layers:
        return None
    check_skipping(network, options.skip_layers)
    asked = steps_between(options.num_steps, options.skip_start, options.skip_end)
    steps = asked[: max(len(times) - 1 - asked.start, 0)]
    if not steps:
        raise ValueError(
            f"skip_layers {options.skip_layers} would have no effect: they act from step "
            f"{asked.start} on, and the strength leaves {len(times) - 1} to run"
        )
    without = formulation.field(partial(network, skip_blocks=options.skip_layers))
    return SkipLayers(without, options.skip_scale, window_of_steps(times, steps))
