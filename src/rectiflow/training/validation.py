"""Validation losses: the same held-out samples, noise and times at every call."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow.data.draws import Draws
from rectiflow.encoders.states import ENCODERS, TextStates
from rectiflow.flow.formulations import Formulation
from rectiflow.flow.paths import RectifiedFlow
from rectiflow.training.objectives.base import BatchSource, Objective
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.ranks import ALONE, Ranks

VALIDATION_TIMES = tuple(k / 8 for k in range(1, 9))
"""The paper's times of the stratified loss; its mean leaves out t = 1 (arXiv:2403.03206, 5.3)."""


class FlowValidation:
    """Errors of a flow at eight times on fixed samples with fixed noise and all texts.

    The loss, of the formulation's own target, is taken at the paper's times k / 8, k = 1..8
    (`Formulation.level`). It compares runs of one formulation. The error of rectified flow's
    velocity, noise - data, is taken where the log SNR is rectified flow's at t = k / 8, k = 1..7
    (at t = 1 it is that of pure noise, which other paths do not reach). It compares formulations;
    for `rf` and its densities it is the loss.

    Args:
        objective: What is trained; its model is evaluated with whatever weights it holds.
        source: Held-out samples, all of them used.
        seed: Seed of noise and captions, the run's.
        batch_size: Samples that a process evaluates at once.
        ranks: The processes of the job, which share the samples.
    """

    def __init__(
        self,
        objective: FlowObjective,
        source: BatchSource,
        seed: int,
        batch_size: int = 64,
        ranks: Ranks = ALONE,
    ) -> None:
        self._objective, self._ranks = objective, ranks
        self._batches = _held_out(source, seed, batch_size, ranks)
        self._num_samples = source.num_samples
        self._own_times = own_times(objective.formulation)
        self._matched_times = matched_times(objective.formulation)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        """`val_loss` and `velocity_error`, means over k = 1..7, and each `..._by_t`, every k."""
        device = next(model.parameters()).device
        times = sorted({*self._own_times, *self._matched_times})
        sums = np.zeros((len(times), 2))
        for batch, draws, num in self._batches:
            batch = to_device(batch, device)
            noise = draws.normal("noise", batch["latent"].shape[1:])
            keep = torch.ones(len(draws), len(ENCODERS), dtype=torch.bool)
            for k, time in enumerate(times):
                t = torch.full((len(draws),), time)
                errors = self._objective.errors_at(batch, t, noise, keep)
                sums[k] += [error[:num].cpu().double().sum().item() for error in errors]
        means = dict(zip(times, self._ranks.total(sums) / self._num_samples, strict=True))
        losses = [float(means[t][0]) for t in self._own_times]
        errors = [float(means[t][1]) for t in self._matched_times]
        return {
            "val_loss": sum(losses[:-1]) / len(losses[:-1]),
            "val_loss_by_t": losses,
            "velocity_error": sum(errors) / len(errors),
            "velocity_error_by_t": errors,
        }


def own_times(formulation: Formulation) -> tuple[float, ...]:
    """Times of a formulation that the paper counts as k / 8, k = 1..8."""
    levels = formulation.level(torch.tensor(VALIDATION_TIMES, dtype=torch.float64))
    return tuple(levels.float().tolist())


def matched_times(formulation: Formulation) -> tuple[float, ...]:
    """Times of a formulation with the log SNR of rectified flow at k / 8, k = 1..7."""
    times = torch.tensor(VALIDATION_TIMES[:-1], dtype=torch.float64)
    return tuple(formulation.path.time_at(RectifiedFlow().log_snr(times)).float().tolist())


class HeldOutValidation:
    """Mean of an objective's own terms on fixed samples with fixed draws.

    Args:
        objective: What is trained.
        source: Held-out samples, all of them used.
        seed: Seed of the draws, the run's.
        batch_size: Samples that a process evaluates at once.
        ranks: The processes of the job, which share the samples.
    """

    def __init__(
        self,
        objective: Objective,
        source: BatchSource,
        seed: int,
        batch_size: int = 64,
        ranks: Ranks = ALONE,
    ) -> None:
        self._objective, self._ranks = objective, ranks
        self._batches = _held_out(source, seed, batch_size, ranks)
        self._num_samples = source.num_samples

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Mapping[str, Any]:
        """`val_loss`, and each further term under `val_<name>`."""
        device = next(model.parameters()).device
        sums: dict[str, float] = {}
        for batch, draws, num in self._batches:
            terms = self._objective.loss(to_device(batch, device), draws)
            for name, values in {"loss": terms.loss, **terms.extra}.items():
                sums[name] = sums.get(name, 0.0) + values[:num].cpu().double().sum().item()
        totals = self._ranks.total(np.array(list(sums.values()))) / self._num_samples
        return {f"val_{name}": float(t) for name, t in zip(sums, totals, strict=True)}


def to_device(batch: Mapping[str, Any], device: torch.device) -> Mapping[str, Any]:
    """Move whatever can be moved, and make half floats float32 there.

    Stores keep text states as half floats, which float32 holds exactly: so half the bytes travel.
    From pinned memory they travel while the caller goes on.
    """
    return {name: _placed(value, device) for name, value in batch.items()}


def _placed(value: Any, device: torch.device) -> Any:
    if isinstance(value, TextStates):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return TextStates(**{name: _placed(part, device) for name, part in parts.items()})
    if not isinstance(value, Tensor):
        return value.to(device) if hasattr(value, "to") else value
    placed = value.to(device, non_blocking=device.type == "cuda")
    return placed.float() if placed.dtype == torch.float16 else placed


def _held_out(
    source: BatchSource, seed: int, batch_size: int, ranks: Ranks
) -> Sequence[tuple[Mapping[str, Any], Draws, int]]:
    """Batches of this process, each with the number of its samples that count.

    All processes have equally many, since they may have to call the model together: one without a
    sample of its own takes another's, which does not count.
    """
    # Draws are keyed by position: another seed keeps these apart from the training samples'.
    positions = np.arange(source.num_samples, dtype=np.int64)
    found = []
    for part in np.array_split(positions, -(-source.num_samples // (batch_size * ranks.num))):
        mine = ranks.share(part)
        draws = Draws(seed ^ 0x56414C, mine if len(mine) else part[:1])  # "VAL"
        found.append((source.batch(draws.positions, draws), draws, len(mine)))
    return found
