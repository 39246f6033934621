"""A training step of ours, lever by lever, beside a plain loop around diffusers' network."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow.bench.contestants import (
    CONTEXT_WIDTH,
    POOLED_WIDTH,
    call_diffusers,
    diffusers_peer,
    with_open_gates,
)
from rectiflow.bench.figure import Figure, median_figure
from rectiflow.bench.peak import peak_bytes, product_rates, wait_for
from rectiflow.bench.settings import BenchSettings
from rectiflow.conditioning import Conditioning
from rectiflow.data.draws import Draws
from rectiflow.devices import keep_freed_memory, resolve_device
from rectiflow.flow.formulations import formulation
from rectiflow.nn.counting import on_meta
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.nn.sizes import products
from rectiflow.training.engine import prepare_network
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.optim import Optimizers
from rectiflow.training.settings.speed import SpeedSettings
from rectiflow.training.settings.training import TrainingSettings

NUM_TEXT_TOKENS = 154
LATENT_FACTOR, CHANNELS = 8, 16
CLIP_NORM, LEARNING_RATE = 1.0, 1e-6
BATCH_ON_CPU, TOKENS_ON_CUDA = 4, 16384  # samples; image tokens of a batch

LEVERS: Mapping[str, SpeedSettings] = {
    "eager": SpeedSettings(),
    "compiled": SpeedSettings(compile="blocks"),
    "selective checkpointing": SpeedSettings(activation_checkpointing="selective"),
    "full checkpointing": SpeedSettings(activation_checkpointing="full"),
}
FP8 = {"compiled, fp8": SpeedSettings(compile="blocks", fp8=True)}

MIN_SPEED, MIN_SHARE_ON_CPU, MIN_FP8_SPEED = 1.5, 0.70, 1.15
MIN_SHARES_ON_CUDA = {256: 0.50, 512: 0.55, 1024: 0.55}
DEPTH_OF_BARS = {"cpu": 12, "cuda": 24}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one step computes.

    Args:
        depth: Of the network, of the paper's shape.
        size_px: Side of the pictures, behind an autoencoder of factor 8 with 16 channels.
        batch_size: Samples.
        device: Where.
    """

    depth: int
    size_px: int
    batch_size: int
    device: torch.device

    @property
    def name(self) -> str:
        """As figures begin."""
        return f"d{self.depth} {self.size_px} px"

    @property
    def side(self) -> int:
        """Of the latent."""
        return self.size_px // LATENT_FACTOR

    @property
    def config(self) -> MMDiTConfig:
        """Shape of the network."""
        side = self.side // 2
        return MMDiTConfig(
            depth=self.depth,
            context_width=CONTEXT_WIDTH,
            pooled_width=POOLED_WIDTH,
            base_side=side,
            table_side=side,
        )

    @property
    def flops(self) -> int:
        """Of forward and backward pass, recomputing not counted."""
        one = products(self.config, self.side, self.side, NUM_TEXT_TOKENS)
        return self.batch_size * one.training_flops

    @property
    def has_bars(self) -> bool:
        """Whether it is what the bars are about."""
        return self.depth == DEPTH_OF_BARS.get(self.device.type)

    def batch(self) -> tuple[Tensor, Conditioning]:
        """Random latents and texts."""
        generator = torch.Generator().manual_seed(1)

        def noise(*shape: int) -> Tensor:
            return torch.randn(self.batch_size, *shape, generator=generator).to(self.device)

        segments = (NUM_TEXT_TOKENS // 2, NUM_TEXT_TOKENS // 2)
        context = noise(NUM_TEXT_TOKENS, CONTEXT_WIDTH)
        return noise(CHANNELS, self.side, self.side), Conditioning(
            context, noise(POOLED_WIDTH), segments
        )

    def autocast(self) -> torch.autocast:
        """Matrix work in bf16."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class Loop:
    """One way to train: the gradient of a batch, then the optimizer; clipping included."""

    descend: Callable[[], object]
    update: Callable[[], object]

    def step(self) -> None:
        """A whole step."""
        self.descend()
        self.update()

    def seconds(self, device: torch.device) -> tuple[float, float]:
        """Of a whole step, and of the optimizer in it."""
        wait_for(device)
        started = time.perf_counter()
        self.descend()
        wait_for(device)
        descended = time.perf_counter()
        self.update()
        wait_for(device)
        ended = time.perf_counter()
        return ended - started, ended - descended


def measure_train(settings: BenchSettings) -> dict[str, Figure]:
    """Every lever and both forms of the rival, in turn, for every depth and size chosen."""
    device = resolve_device(settings.device or "auto")
    keep_freed_memory()
    levers = {**LEVERS, **(FP8 if settings.with_fp8 else {})}
    figures = {}
    for depth in settings.depths:
        for size_px in settings.sizes_px:
            batch = settings.batch_size or _usual_batch(device, size_px)
            task = Task(depth=depth, size_px=size_px, batch_size=batch, device=device)
            loops = {**our_loops(task, levers), **rival_loops(task)}
            for name, figure in task_figures(task, loops, settings).items():
                figures[f"{task.name} {name}"] = figure
    return figures


def our_loops(task: Task, levers: Mapping[str, SpeedSettings]) -> dict[str, Loop]:
    """Our engine's step with each lever; all share the weights and the optimizer's averages."""
    with task.device:
        first = with_open_gates(MMDiT(task.config))
    settings = TrainingSettings(
        num_steps=1,
        batch_size=task.batch_size,
        optimizer="adamw",
        learning_rate=LEARNING_RATE,
        precision="bf16",
    )
    form, (latent, cond) = formulation("rf/lognorm(0.00,1.00)"), task.batch()
    optimizers = Optimizers(FlowObjective(first, form, 0.0), settings)

    def update() -> None:
        optimizers.clip(CLIP_NORM)
        optimizers.step()

    loops = {}
    for name, lever in levers.items():
        network = twin_of(first)
        prepare_network(network, lever, task.device)
        objective = FlowObjective(network, form, 0.0, lambda states, keep: states)
        batch = {"latent": latent, "states": cond}
        loops[name] = Loop(partial(_descend, task, objective, batch), update)
    return loops


def twin_of(network: Any) -> nn.Module:
    """Another network with the very same parameters."""
    twin = on_meta(partial(type(network), network.config))
    twin.load_state_dict(network.state_dict(keep_vars=True), assign=True)
    return twin


def _descend(task: Task, objective: FlowObjective, batch: Mapping[str, Any]) -> None:
    draws = Draws(0, np.arange(task.batch_size, dtype=np.int64))
    with task.autocast():
        terms = objective.loss(batch, draws)
    (terms.loss.sum() / task.batch_size).backward()


def rival_loops(task: Task) -> dict[str, Loop]:
    """A plain loop around diffusers' network, eager and compiled: bf16 autocast, fused AdamW."""
    with task.device:
        network = diffusers_peer(with_open_gates(MMDiT(task.config)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)
    latent, cond = task.batch()

    def descend(call: Callable[..., Any]) -> None:
        noise = torch.randn_like(latent)
        t = torch.sigmoid(torch.randn(len(latent), device=latent.device))
        share = t[:, None, None, None]
        with task.autocast():
            velocity = call_diffusers(call, (1 - share) * latent + share * noise, t, cond)
        (velocity.float() - (noise - latent)).square().mean().backward()

    def update() -> None:
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    compiled = torch.compile(network, dynamic=False)
    return {
        "diffusers eager": Loop(partial(descend, network), update),
        "diffusers compiled": Loop(partial(descend, compiled), update),
    }


def task_figures(
    task: Task, loops: Mapping[str, Loop], settings: BenchSettings
) -> dict[str, Figure]:
    """What each loop takes, and how many times as fast the best of ours is as the best rival."""
    device, figures = task.device, {}
    for loop in loops.values():
        for _ in range(2):  # a compiler compiles, the allocator settles
            loop.step()
    for name, loop in loops.items():
        memory = peak_bytes(loop.step, device) / 2**20
        figures[f"{name}, memory"] = Figure(value=memory, unit="MiB")
    side = settings.amount(8192 if device.type == "cuda" else 2048, 512)
    peaks, taken = [], {name: [] for name in loops}
    for repeat in range(settings.repeats(5)):
        peaks += product_rates(side, torch.bfloat16, device, 3)
        for name in sorted(loops, reverse=repeat % 2 == 1):
            taken[name].append(loops[name].seconds(device))
    figures["peak"] = median_figure(peaks, "GFLOP/s", note=f"bf16, matrices of {side} x {side}")
    peak = figures["peak"].value * 1e9
    best = {
        is_rival: min(
            (
                name
                for name in loops
                if name.startswith("diffusers") == is_rival and name not in FP8
            ),
            key=lambda name: statistics.median(whole for whole, _ in taken[name]),
        )
        for is_rival in (False, True)
    }
    for name, measured in taken.items():
        bar = _least_share(task) if name == best[False] else None
        figures |= _loop_figures(task, name, measured, peak, bar)
    figures |= _comparisons(task, taken, best)
    return figures


def _loop_figures(
    task: Task, name: str, measured: list[tuple[float, float]], peak: float, bar: float | None
) -> dict[str, Figure]:
    wholes = [whole for whole, _ in measured]
    rates = [task.flops / whole for whole in wholes]
    optimizer = [part / whole for whole, part in measured]
    return {
        f"{name}": median_figure(wholes, "s"),
        f"{name}, images": median_figure([task.batch_size / each for each in wholes], "1/s"),
        f"{name}, rate": median_figure([rate / 1e12 for rate in rates], "TFLOP/s"),
        f"{name}, share": median_figure(
            [rate / peak for rate in rates], "of the peak", at_least=bar
        ),
        f"{name}, optimizer": median_figure(optimizer, "of the step"),
    }


def _comparisons(
    task: Task, taken: Mapping[str, list[tuple[float, float]]], best: Mapping[bool, str]
) -> dict[str, Figure]:
    def ratios(slow: str, fast: str) -> list[float]:
        pairs = zip(taken[slow], taken[fast], strict=True)
        return [slower / faster for (slower, _), (faster, _) in pairs]

    bar = MIN_SPEED if task.has_bars and task.device.type == "cpu" else None
    note = f"{best[False]} against {best[True]}"
    speed = median_figure(ratios(best[True], best[False]), "x diffusers", at_least=bar, note=note)
    figures = {"speed": speed}
    for name in LEVERS.keys() & taken.keys() - {"eager"}:
        figures[f"{name}, speed"] = median_figure(ratios("eager", name), "x eager")
    for name in FP8.keys() & taken.keys():
        least = MIN_FP8_SPEED if task.has_bars else None
        figures[f"{name}, speed"] = median_figure(
            ratios("compiled", name), "x compiled", at_least=least
        )
    return figures


def _least_share(task: Task) -> float | None:
    if not task.has_bars:
        return None
    if task.device.type == "cpu":
        return MIN_SHARE_ON_CPU if task.size_px == 256 else None
    return MIN_SHARES_ON_CUDA.get(task.size_px)


def _usual_batch(device: torch.device, size_px: int) -> int:
    if device.type != "cuda":
        return BATCH_ON_CPU
    return max(1, math.floor(TOKENS_ON_CUDA / (size_px / 16) ** 2))
