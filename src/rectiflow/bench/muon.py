"""A step of our Muon against one of torch.optim.Muon, on the matrices of MM-DiTs, in turn."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rectiflow.bench.contestants import shape_of_depth
from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.timing import pairs, ratios
from rectiflow.devices import keep_freed_memory, resolve_device
from rectiflow.flow.formulations import formulation
from rectiflow.nn.mmdit import MMDiT
from rectiflow.training.muon import Muon
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.owners import Grid
from rectiflow.training.settings.training import TrainingSettings

TINY_DEPTH = 4  # of scenes-tiny
MAX_DIFFERENCE = 2**-8  # of the moves of the two, relative: the rounding of bf16
SETTINGS = TrainingSettings(num_steps=1)

Matrices = dict[str, tuple[tuple[int, ...], int]]


def measure_muon(settings: BenchSettings) -> dict[str, Figure]:
    """Seconds of a step of each, their ratio, and how far their moves differ."""
    device = resolve_device(settings.device or "auto")
    keep_freed_memory()
    figures = {}
    for depth in dict.fromkeys((TINY_DEPTH, *settings.depths)):
        for name, figure in _figures(matrices_of(depth), device, settings.repeats(5)).items():
            figures[f"d{depth} {name}"] = figure
    return figures


def matrices_of(depth: int) -> Matrices:
    """Shape of each parameter that Muon takes in an MM-DiT, and the number of matrices in it."""
    with torch.device("meta"):
        network = MMDiT(shape_of_depth(depth))
    objective = FlowObjective(network, formulation("rf"), 0.0)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    return {name: (shapes[name], num) for name, num in objective.matrices().items()}


def _figures(matrices: Matrices, device: torch.device, num_repeats: int) -> dict[str, Figure]:
    generator = torch.Generator(device).manual_seed(0)
    gradients = {
        name: torch.randn(shape, generator=generator, device=device)
        for name, (shape, _) in matrices.items()
    }
    ours, our_step = _ours(matrices, gradients)
    theirs, their_step = _theirs(matrices, gradients)
    our_watch, their_watch = _stopwatch(our_step, device), _stopwatch(their_step, device)
    our_watch()
    their_watch()
    moved = sum(float(weight.square().sum()) for weight in theirs.values())
    apart = sum(float((ours[name] - theirs[name]).square().sum()) for name in ours)
    difference = (apart / moved) ** 0.5
    measured = pairs(our_watch, their_watch, num_repeats)
    return {
        "times as fast as torch.optim.Muon": median_figure(ratios(measured), ""),
        "ours": median_figure([ours for ours, _ in measured], "s"),
        "torch.optim.Muon": median_figure([theirs for _, theirs in measured], "s"),
        "difference of the moves": Figure(value=difference, unit="", at_most=MAX_DIFFERENCE),
    }


def _ours(
    matrices: Matrices, gradients: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Weights from 0, and what moves them by a step."""
    named = {name: nn.Parameter(torch.zeros_like(each)) for name, each in gradients.items()}
    for name, parameter in named.items():
        parameter.grad = gradients[name]
    optimizer = Muon(named, {name: num for name, (_, num) in matrices.items()}, SETTINGS, Grid())
    return {name: parameter.detach() for name, parameter in named.items()}, optimizer.step


def _theirs(
    matrices: Matrices, gradients: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Callable[[], object]]:
    """The same, in torch.optim.Muon."""
    weights = {name: torch.zeros_like(each) for name, each in gradients.items()}
    views = []
    for name, (_, num) in matrices.items():
        for view, grad in zip(weights[name].chunk(num), gradients[name].chunk(num), strict=True):
            views.append(nn.Parameter(view))
            views[-1].grad = grad
    optimizer = torch.optim.Muon(
        views,
        lr=SETTINGS.muon_learning_rate,
        weight_decay=SETTINGS.weight_decay,
        momentum=SETTINGS.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return weights, optimizer.step


def _stopwatch(step: Callable[[], object], device: torch.device) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    return seconds
