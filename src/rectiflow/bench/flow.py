"""What the mathematics of a flow costs beside its network, and a Frechet distance."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.recipe import scenes_tiny
from rectiflow.bench.settings import BenchSettings
from rectiflow.conditioning import Conditioning
from rectiflow.data.draws import Draws
from rectiflow.evaluation.frechet import frechet_distance, stream_moments
from rectiflow.flow.formulations import STUDY, Formulation, formulation
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.steps import own_noise
from rectiflow.nn.backbones import new_network
from rectiflow.sampling.load import load_encoders, network_config

MAX_TRAINING_SHARE, MAX_STEP_SHARE, MAX_FRECHET_SECONDS = 0.02, 0.03, 3.0
NUM_FEATURES, FEATURE_WIDTH, FEATURE_BATCH = 10_000, 768, 500
NUM_STEPS = 10  # of a drawing
PATHS = ("rf", "edm(-1.20,1.20)", "eps/linear", "v/cos")  # one formulation for each path


def measure_flow(settings: BenchSettings) -> dict[str, Figure]:
    """Shares of the time of the tiny network, on the latents and batch of scenes-tiny."""
    repeats = settings.repeats(15)
    network, noise, cond = tiny_network(settings)
    step = _seconds(one_step(network, noise, cond), repeats)
    evaluation = _seconds(lambda: _evaluate(network, noise, cond), repeats)
    return {
        "forward and backward": median_figure(step, "s"),
        "evaluation": median_figure(evaluation, "s"),
        "training": training_share(noise, min(step), settings),
        **step_shares(noise, min(evaluation), repeats),
        "frechet": frechet_seconds(settings),
    }


def tiny_network(settings: BenchSettings) -> tuple[Any, Tensor, Conditioning]:
    """The network of scenes-tiny with new weights, and of a batch latents of noise and texts."""
    recipe = scenes_tiny(settings)
    autoencoder, text = load_encoders(asdict(recipe.encoders))
    shape = network_config(asdict(recipe.model), recipe.data.size_px, autoencoder, text)
    network: Any = new_network(shape)
    network.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond = text.conditioning(["a red circle"] * recipe.training.batch_size)
    side = recipe.data.size_px // autoencoder.factor
    latent = (recipe.training.batch_size, autoencoder.latent_channels, side, side)
    return network, torch.randn(latent, generator=torch.Generator().manual_seed(0)), cond


def one_step(network: Any, x: Tensor, cond: Conditioning) -> Callable[[], None]:
    """A forward and a backward pass, whenever it is called."""

    def step() -> None:
        network(x, torch.full((len(x),), 0.5), cond).float().square().mean().backward()

    return step


@torch.no_grad()
def _evaluate(network: Any, x: Tensor, cond: Conditioning) -> None:
    network(x, torch.full((len(x),), 0.5), cond)


def training_share(noise: Tensor, step_seconds: float, settings: BenchSettings) -> Figure:
    """Drawing times, interpolating, and weighting the loss: the dearest formulation's share."""
    draws = Draws(0, np.arange(len(noise)))
    data = noise.flip(0).contiguous()
    names = PATHS if settings.is_quick else STUDY
    shares = {
        name: [
            seconds / step_seconds
            for seconds in _seconds(
                partial(_mathematics, formulation(name), data, noise, draws),
                settings.repeats(15),
            )
        ]
        for name in names
    }
    worst = max(names, key=lambda name: float(np.median(shares[name])))
    note = f"of forward and backward; the dearest of {len(names)} formulations, {worst}"
    return median_figure(shares[worst], "of a step", at_most=MAX_TRAINING_SHARE, note=note)


def _mathematics(form: Formulation, data: Tensor, noise: Tensor, draws: Draws) -> None:
    t = form.density.quantile(draws.uniform("time"))
    x, _ = form.network_inputs(form.path.interpolate(data, noise, t), t)
    form.loss(x, data, noise, t)


def step_shares(noise: Tensor, evaluation_seconds: float, repeats: int) -> Mapping[str, Figure]:
    """What a step of each solver adds to its evaluations, on the path where that is most."""
    figures = {}
    for name in SOLVERS:
        if SOLVERS[name].is_adaptive and not find_spec("torchdiffeq"):
            continue
        shares = {
            path: [
                share / evaluation_seconds
                for share in _overheads(name, formulation(path), noise, repeats)
            ]
            for path in PATHS
        }
        worst = max(PATHS, key=lambda path: float(np.median(shares[path])))
        figures[f"step of {name}"] = median_figure(
            shares[worst],
            "of the evaluations",
            at_most=MAX_STEP_SHARE,
            note=f"the dearest of {len(PATHS)} paths, that of {worst}",
        )
    return figures


def _overheads(solver: str, form: Formulation, noise: Tensor, repeats: int) -> list[float]:
    """Seconds for each evaluation that a drawing takes beside a network that takes none."""
    num_calls = 0

    def network(x: Tensor, t: Tensor) -> Tensor:
        nonlocal num_calls
        num_calls += 1
        return x

    field, times = form.field(network), form.times(NUM_STEPS)
    start = form.path.beginning(noise)
    draw = own_noise([torch.Generator().manual_seed(i) for i in range(len(noise))])
    measured = []
    for _ in range(repeats + 1):
        num_calls, began = 0, time.perf_counter()
        integrate(field, start, times, SOLVERS[solver], path=form.path, draw=draw)
        measured.append((time.perf_counter() - began) / num_calls)
    return measured[1:]


def frechet_seconds(settings: BenchSettings) -> Figure:
    """Moments of two sets, from batches, and their distance."""
    generator = np.random.Generator(np.random.Philox(0))
    num = settings.amount(NUM_FEATURES, 1000)
    sets = [generator.standard_normal((num, FEATURE_WIDTH), dtype=np.float32) for _ in range(2)]

    def distance() -> None:
        first, second = (
            stream_moments(np.array_split(features, num // FEATURE_BATCH)) for features in sets
        )
        frechet_distance(first, second)

    taken = _seconds(distance, settings.repeats(3))
    note = f"both sides of {num} x {FEATURE_WIDTH} features, and the distance"
    return median_figure(taken, "s", at_most=MAX_FRECHET_SECONDS, note=note)


def _seconds(work: Callable[[], None], repeats: int) -> list[float]:
    """How long it takes each time, after once to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken
