"""From noise to latents: time grid, guidance, solver and what a picture to start from changes."""

from dataclasses import dataclass
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.flow.formulations import Formulation
from rectiflow.flow.inpainting import keep_known
from rectiflow.flow.predictions import DataPrediction
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.steps import Draw
from rectiflow.flow.times import remaining_times
from rectiflow.sampling.guiding import Guide, guided_velocity, moving_times
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
    *,
    guide: Guide | None = None,
    draw: Draw | None = None,
) -> Float[Tensor, "batch channels rows columns"]:
    """Carry noise to latents, one text for each.

    With a `start`, its latent is noised to the first time that its strength leaves of the grid, and
    only the rest is run; what is not redrawn follows the path of that latent and `noise`, and is
    the latent itself in the end.

    Args:
        network: Called as network(x, t, conditioning).
        formulation: What its output means.
        noise: Standard normal.
        cond: What to draw.
        uncond: What to lead away from.
        options: Of sampling.
        start: A latent to start from.
        guide: A weaker model to lead away from, with the text of `cond`.
        draw: Source of the noise that a stochastic solver draws on its way.

    Raises:
        ValueError: If guidance or solver cannot do what is asked for.
    """
    check_solver(options, formulation)
    times = formulation.times(options.num_steps, options.shift, options.grid)
    if start is not None:
        times = remaining_times(times, start.strength)
    velocity = guided_velocity(network, formulation, (cond, uncond), times, options, guide)
    first, times = times[:1], moving_times(options, formulation, times)
    solver, path = SOLVERS[options.solver], formulation.path
    run = partial(
        integrate, velocity, solver=solver, path=path, draw=draw, tolerance=options.tolerance
    )
    if start is None:
        return run(path.beginning(noise), times)
    data = start.latent.to(noise).expand_as(noise)
    first, then = (t.to(noise).expand(len(noise)) for t in (first, times[:1]))
    keep = start.redrawn is not None and keep_known(
        path, data, noise, start.redrawn.to(noise.device)
    )
    x = path.interpolate(data, noise, first)
    x = keep(x, then) if keep else x  # what is known does not stand still
    return run(x, times, after_step=keep or None)


def check_solver(options: SamplingOptions, formulation: Formulation) -> None:
    """Refuse a solver that asks at t = 0, where predicted data says nothing of the velocity.

    It comes to (x - data) / sigma there: a network's error, times 10^5.

    Raises:
        ValueError: If the formulation predicts data and the solver asks there.
    """
    serving = [name for name, s in SOLVERS.items() if s.stages and 1 not in s.stages]
    if isinstance(formulation.prediction, DataPrediction) and options.solver not in serving:
        raise ValueError(
            f"{options.solver} asks for the velocity at t = 0, of which the data that "
            f"{formulation.name} predicts says nothing; take one of {', '.join(serving)}"
        )
