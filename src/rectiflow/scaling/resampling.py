"""Scores of all runs of a study as arrays, and again as they might have come out.

A draw takes one replicate of the prompts, the same for every run, and seeds with replacement, the
same for every formulation: what prompts and seeds do to all of them alike cancels in comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rectiflow.scaling.measures import Measures, Setting

COVERAGE: Final = 0.95
CLIP, FRECHET = 0, 1
"""Places of the two scores on the last axis."""


class Interval(NamedTuple):
    """A number and the range that 95 % of its draws lie in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScoreDraws:
    """CLIP scores and Frechet distances, means over seeds; nan where they are not to be had.

    Args:
        formulations: Names, in the order of their first runs.
        settings: Every control setting that any run was measured in.
        point: As measured.
        draws: On resampled prompts and seeds.
    """

    formulations: tuple[str, ...]
    settings: tuple[Setting, ...]
    point: Float[np.ndarray, "formulation setting 2"]
    draws: Float[np.ndarray, "draw formulation setting 2"]

    def missing(self, formulation: str) -> tuple[Setting, ...]:
        """Settings that a formulation has no scores in, because a run diverged or was not drawn."""
        row = self.point[self.formulations.index(formulation)]
        return tuple(
            setting
            for setting, scores in zip(self.settings, row, strict=True)
            if not np.isfinite(scores).all()
        )

    def interval(self, formulation: str, setting: Setting, score: int) -> Interval | None:
        """One score and its interval, None where there is none.

        Resampled pictures repeat, which by itself raises a Frechet distance; so the draws are moved
        to have the measured value as their mean, and tell of their spread alone.
        """
        if setting not in self.settings:
            return None
        place = (self.formulations.index(formulation), self.settings.index(setting), score)
        value, draws = float(self.point[place]), self.draws[:, *place]
        draws = draws[np.isfinite(draws)]
        if not np.isfinite(value):
            return None
        return interval(value, draws - draws.mean() + value)


def interval(value: float, draws: Float[np.ndarray, " draw"]) -> Interval:
    """The range between the quantiles that leave 2.5 % of the draws on either side."""
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def score_draws(runs: Sequence[Measures], num_draws: int = 1000, seed: int = 0) -> ScoreDraws:
    """Arrays of the scores of runs.

    A run that diverged, or lacks a setting, makes the mean over the seeds of its formulation nan
    there: it is not dropped in favour of seeds that went well.

    Args:
        runs: At most one of each formulation and seed.
        num_draws: Draws of prompts and seeds.
        seed: Of the draws.

    Raises:
        ValueError: If there are no scores at all, a run is there twice, or runs differ in the
            features of their distances, their pictures' number or that of their replicates.
    """
    _check(runs)
    names = tuple(dict.fromkeys(run.formulation for run in runs))
    seeds = sorted({run.seed for run in runs})
    settings = tuple(dict.fromkeys(each.setting for run in runs for each in run.settings))
    num_replicates = max(run.num_replicates for run in runs)
    table = np.full((len(names), len(seeds), len(settings), 1 + num_replicates, 2), np.nan)
    is_there = np.zeros((len(names), len(seeds)), bool)
    for run in runs:
        place = names.index(run.formulation), seeds.index(run.seed)
        is_there[place] = True
        for each in run.settings if run.diverged is None else ():
            at = table[*place, settings.index(each.setting)]
            at[0] = each.clip, each.frechet
            at[1:, CLIP], at[1:, FRECHET] = each.bootstrap.clip, each.bootstrap.frechet
    point = _mean(table[:, :, :, :1], is_there[None])[0]
    chosen = _chosen(is_there, num_draws, np.random.default_rng(seed))
    # Without replicates, what was measured stands for them: the draws are of seeds alone.
    columns = 1 + np.arange(num_draws) % num_replicates if num_replicates else [0] * num_draws
    return ScoreDraws(names, settings, point, _mean(table[:, :, :, columns], chosen))


def _chosen(
    is_there: Bool[np.ndarray, "formulation seed"], num_draws: int, rng: np.random.Generator
) -> np.ndarray:
    """How often each draw takes each run; a formulation with none of the drawn seeds keeps its own.

    Returns:
        Shape (draw, formulation, seed).
    """
    num_seeds = is_there.shape[1]
    drawn = rng.integers(num_seeds, size=(num_draws, num_seeds))
    counts = (drawn[:, :, None] == np.arange(num_seeds)).sum(1)
    chosen = counts[:, None, :] * is_there
    return np.where(chosen.any(-1, keepdims=True), chosen, is_there)


def _mean(
    table: Float[np.ndarray, "formulation seed setting draw 2"], counts: np.ndarray
) -> Float[np.ndarray, "draw formulation setting 2"]:
    """Means over seeds, each as often as counted; nan only where a counted one is nan."""
    weights = counts / counts.sum(-1, keepdims=True)
    total = np.zeros((table.shape[3], table.shape[0], table.shape[2], 2))
    for seed in range(table.shape[1]):
        weight = weights[:, :, seed, None, None]
        scores = table[:, seed].transpose(2, 0, 1, 3)
        total += np.where(weight > 0, weight * scores, 0.0)
    return total


def _check(runs: Sequence[Measures]) -> None:
    if not any(run.settings for run in runs if run.diverged is None):
        raise ValueError(f"a ranking needs scores of at least one run, got {len(runs)} without any")
    keys = [(run.formulation, run.seed) for run in runs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f"each run must be there once, got twice: {twice}")
    scored = [run for run in runs if run.settings]
    for what, values in (
        ("features", {run.features for run in scored}),
        ("number of replicates", {run.num_replicates for run in scored}),
        ("number of pictures", {each.num_pictures for run in scored for each in run.settings}),
    ):
        if len(values) > 1:
            raise ValueError(f"all runs must have the same {what}, got {sorted(values, key=str)}")
