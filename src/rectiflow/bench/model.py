"""Speed and memory of our MM-DiT beside diffusers', in one process and in turn."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.bench.contestants import (
    BATCH_SIZE,
    LATENT_SIDE,
    NUM_TEXT_TOKENS,
    Contestant,
    bytes_of_both,
    contestants,
    inputs,
    shape_of_depth,
)
from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.peak import peak_bytes, product_rates, wait_for
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.timing import pairs, ratios
from rectiflow.conditioning import Conditioning, cat
from rectiflow.devices import keep_freed_memory, resolve_device
from rectiflow.nn.counting import bytes_kept_by
from rectiflow.nn.sizes import forward_flops

GUIDANCE_SCALE = 5.0
MAX_DIFFERENCE = 1e-5  # of outputs in fp32, relative
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIN_SPEED_ON_CPU = {"bf16": 1.3, "fp32": 1.05}  # of a training step at BAR_DEPTH, eager
BAR_DEPTH = 12

FORWARDS = {  # work of a phase in forward passes of the batch; a backward pass is two
    "forward": 1,
    "forward and backward": 3,
    "training step": 3,
    "sampling step": 2,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the two are measured in."""

    depth: int
    precision: str
    device: torch.device
    is_compiled: bool

    @property
    def name(self) -> str:
        """As figures begin."""
        return f"d{self.depth} {self.precision}{' compiled' if self.is_compiled else ''}"

    def autocast(self) -> torch.autocast:
        """The precision, switched on."""
        is_bf16 = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_bf16)

    @property
    def min_speed(self) -> float | None:
        """Bar of a training step, how many times as fast as diffusers'; None for no promise."""
        is_promised = self.depth == BAR_DEPTH and self.device.type == "cpu"
        return MIN_SPEED_ON_CPU[self.precision] if is_promised and not self.is_compiled else None


def measure_model(settings: BenchSettings) -> dict[str, Figure]:
    """Forward, forward and backward, training step and guided sampling step; every case chosen."""
    device = resolve_device(settings.device or "auto")
    keep_freed_memory()
    side = settings.amount(8192 if device.type == "cuda" else 2048, 512)
    figures = {}
    for precision in settings.precisions:
        measured = product_rates(side, TYPES[precision], device, settings.repeats(5))
        figures[f"{precision} peak"] = median_figure(measured, "GFLOP/s")
    for depth in settings.depths:
        config = shape_of_depth(depth)
        rivals = contestants(config, device, is_compiled=settings.is_compiled)
        flops = BATCH_SIZE * forward_flops(config, LATENT_SIDE, LATENT_SIDE, NUM_TEXT_TOKENS)
        for precision in settings.precisions:
            case = Case(
                depth=depth, precision=precision, device=device, is_compiled=settings.is_compiled
            )
            peak = figures[f"{precision} peak"].value * 1e9
            for name, figure in _case_figures(case, rivals, flops / peak, settings).items():
                figures[f"{case.name} {name}"] = figure
    return figures


def require_memory(settings: BenchSettings) -> None:
    """Refuse networks that do not fit.

    Raises:
        ValueError: If the device is not there, or its memory is less than both networks take.
    """
    device = resolve_device(settings.device or "auto")
    for depth in settings.depths:
        needed, present = bytes_of_both(shape_of_depth(depth)), _memory_of(device)
        if present is not None and needed > present:
            raise ValueError(
                f"two networks of depth {depth} take about {needed / 2**30:.0f} GiB to train, "
                f"{device} has {present / 2**30:.0f}; choose a smaller --depth"
            )


def _case_figures(
    case: Case,
    rivals: tuple[Contestant, Contestant],
    least_seconds: float,
    settings: BenchSettings,
) -> dict[str, Figure]:
    """Figures of one case; a forward pass at the peak rate would take `least_seconds`."""
    figures = {"difference": _difference(case, rivals)}
    for phase, num_forwards in FORWARDS.items():
        first, second = (_stopwatch(phase, case, rival) for rival in rivals)
        for warm_up in (first, second):  # the allocator settles, a compiler compiles
            warm_up()
        measured = pairs(first, second, settings.repeats(5))
        bar = case.min_speed if phase == "training step" else None
        figures[f"{phase} speed"] = median_figure(ratios(measured), "x diffusers", at_least=bar)
        for whose, seconds in zip(("ours", "diffusers"), zip(*measured, strict=True), strict=True):
            figures[f"{phase} {whose}"] = median_figure(seconds, "s")
            shares = [num_forwards * least_seconds / taken for taken in seconds]
            figures[f"{phase} {whose}, share"] = median_figure(shares, "of the peak")
    if not case.is_compiled:
        for whose, rival in zip(("ours", "diffusers"), rivals, strict=True):
            kept = kept_bytes(case, rival) / 2**20
            figures[f"kept for the backward pass {whose}"] = Figure(value=kept, unit="MiB")
    if case.device.type == "cuda":
        for whose, rival in zip(("ours", "diffusers"), rivals, strict=True):
            figures[f"training step {whose}, memory"] = _cuda_peak(case, rival)
    return figures


def _stopwatch(phase: str, case: Case, rival: Contestant) -> Callable[[], float]:
    """Seconds of one phase, whenever called."""
    x, t, cond = inputs(case.device)
    both = cat(cond, inputs(case.device)[2])
    work = {
        "forward": lambda: _forward(case, rival, x, t, cond),
        "forward and backward": lambda: _backward(case, rival, x, t, cond),
        "training step": lambda: (_backward(case, rival, x, t, cond), rival.optimizer.step()),
        "sampling step": lambda: _sampling_step(case, rival, x, t, both),
    }[phase]

    def measure() -> float:
        rival.network.zero_grad(set_to_none=True)
        wait_for(case.device)
        started = time.perf_counter()
        work()
        wait_for(case.device)
        return time.perf_counter() - started

    return measure


@torch.no_grad()
def _forward(case: Case, rival: Contestant, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    with case.autocast():
        return rival.velocity(x, t, cond)


def _backward(case: Case, rival: Contestant, x: Tensor, t: Tensor, cond: Conditioning) -> None:
    with case.autocast():
        velocity = rival.velocity(x, t, cond)
    velocity.float().square().mean().backward()


def _sampling_step(
    case: Case, rival: Contestant, x: Tensor, t: Tensor, both: Conditioning
) -> Tensor:
    """One step of Euler's method with guidance, conditional and unconditional in one batch."""
    velocities = _forward(case, rival, torch.cat([x, x]), torch.cat([t, t]), both)
    conditional, unconditional = velocities.float().chunk(2)
    return x - 0.02 * (unconditional + GUIDANCE_SCALE * (conditional - unconditional))


def _difference(case: Case, rivals: tuple[Contestant, Contestant]) -> Figure:
    ours, theirs = (_forward(case, rival, *inputs(case.device)).double() for rival in rivals)
    bar = MAX_DIFFERENCE if case.precision == "fp32" and case.device.type == "cpu" else None
    value = ((ours - theirs).norm() / theirs.norm()).item()
    return Figure(value=value, unit="relative", at_most=bar)


def kept_bytes(case: Case, rival: Contestant) -> int:
    """Distinct memory that a forward pass keeps for the backward pass, but for the weights."""
    arguments = inputs(case.device)

    def run() -> Tensor:
        with case.autocast():
            return rival.velocity(*arguments)

    return bytes_kept_by(run, rival.network)


def _cuda_peak(case: Case, rival: Contestant) -> Figure:
    """The most that a training step takes beside what both networks hold all the time."""
    step = _stopwatch("training step", case, rival)
    return Figure(value=peak_bytes(step, case.device) / 2**20, unit="MiB")


def _memory_of(device: torch.device) -> int | None:
    """Bytes of a device in all; None where it does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
