"""Ranks of formulations as the paper takes them (arXiv:2403.03206, Sec. 5.1, App. B.3).

In every control setting formulations are sorted into fronts: the first holds those that no other is
better than in CLIP score and Frechet distance together, the next those that are left on top without
the first, and so on. A formulation's rank is its mean front over settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int, Num

from rectiflow.scaling.measures import Setting
from rectiflow.scaling.paper_values import TABLE_1, Claim
from rectiflow.scaling.resampling import CLIP, FRECHET, Interval, ScoreDraws, interval

COLUMNS: Final[Mapping[str, Callable[[Setting], bool]]] = {
    "all": lambda setting: True,
    "few_steps": lambda setting: setting.num_steps == 5,
    "many_steps": lambda setting: setting.num_steps == 50 and setting.guidance_scale == 5,
}
"""Which settings each column of Table 1 averages, by field of `PaperRanks`.

Unstated in the paper: which of the three guidance scales the 50-step column is of. Its values are
multiples of 1/4, of two data sets and two sets of weights, so it is one; 5 is that of the others.
"""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Average ranks of one column; 1 is best.

    Args:
        formulations: Names.
        point: As measured.
        draws: On resampled prompts and seeds.
    """

    formulations: tuple[str, ...]
    point: Float[np.ndarray, " formulation"]
    draws: Float[np.ndarray, "draw formulation"]

    def __getitem__(self, formulation: str) -> Interval:
        """A formulation's average rank with its interval."""
        place = self.formulations.index(formulation)
        return interval(float(self.point[place]), self.draws[:, place])

    def difference(self, worse: str, better: str) -> Interval:
        """By how much the rank of one is higher than that of another, draw by draw."""
        i, j = self.formulations.index(worse), self.formulations.index(better)
        return interval(float(self.point[i] - self.point[j]), self.draws[:, i] - self.draws[:, j])


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far our order of formulations is the paper's.

    Args:
        num: Formulations that both have ranks of.
        spearman: Correlation of the ranks; its interval is of our prompts and seeds, with the
            formulations as they are.
        chance: Size that unrelated orders of so many exceed in at most 5 % of cases.
        num_pairs: Pairs of formulations that the paper puts in an order.
        same_order: Of these, the ones in the same order here.
        told_apart: Of these, the ones whose difference has an interval here that excludes 0.
        told_apart_same: Of the latter, the ones in the paper's order.
    """

    num: int
    spearman: Interval
    chance: float
    num_pairs: int
    same_order: int
    told_apart: int
    told_apart_same: int


def fronts(
    clip: Float[np.ndarray, "*batch point"], frechet: Float[np.ndarray, "*batch point"]
) -> Int[np.ndarray, "*batch point"]:
    """Number of the front of every point, from 1.

    A point is dominated by one that is no worse in both and better in one. Points of a front tie,
    and so do equal points. A point with a nan is put after all others, on one last front.

    Args:
        clip: More is better.
        frechet: Less is better.
    """
    known = np.isfinite(clip) & np.isfinite(frechet)
    no_worse = (clip[..., :, None] >= clip[..., None, :]) & (
        frechet[..., :, None] <= frechet[..., None, :]
    )
    better = (clip[..., :, None] > clip[..., None, :]) | (
        frechet[..., :, None] < frechet[..., None, :]
    )
    dominates = no_worse & better  # [..., i, j]: i dominates j; false where either is nan
    found, left, front = np.zeros(known.shape, np.int64), known, 0
    while left.any():
        front += 1
        top = left & ~(dominates & left[..., :, None]).any(-2)
        found[top] = front
        left = left & ~top
    return np.where(known, found, found.max(-1, keepdims=True) + 1)


def average_ranks(scores: ScoreDraws) -> dict[str, Ranks]:
    """Average ranks by column of Table 1; a column that no run was measured for is left out."""
    point = fronts(scores.point[..., CLIP].T, scores.point[..., FRECHET].T)
    draws = np.stack(
        # One setting at a time: all pairs of all draws at once would be large.
        [
            fronts(scores.draws[:, :, k, CLIP], scores.draws[:, :, k, FRECHET])
            for k in range(len(scores.settings))
        ]
    )
    chosen = {
        name: [k for k, setting in enumerate(scores.settings) if of(setting)]
        for name, of in COLUMNS.items()
    }
    return {
        name: Ranks(scores.formulations, point[rows].mean(0), draws[rows].mean(0))
        for name, rows in chosen.items()
        if rows
    }


def spearman(
    rows: Num[np.ndarray, "row item"], values: Num[np.ndarray, " item"]
) -> Float[np.ndarray, " row"]:
    """Spearman's correlation of every row with the values, equal ones sharing their mean rank.

    nan where all of a row, or all of the values, are equal.
    """
    a, b = (_centred(_mid_ranks(each)) for each in (rows, values))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def chance_level(num: int, num_orders: int = 20_000) -> float:
    """The absolute correlation that at most 5 % of pairs of unrelated orders exceed."""
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(num), (num_orders, 1)), axis=1)
    return float(np.quantile(np.abs(spearman(orders, np.arange(num))), 0.95))


def agreement(ranks: Ranks, column: str) -> Agreement | None:
    """Our ranks beside those of the paper's Table 1; None of fewer than three in common."""
    common = [name for name in ranks.formulations if name in TABLE_1]
    if len(common) < 3:
        return None
    paper = np.array([getattr(TABLE_1[name], column) for name in common])
    places = [ranks.formulations.index(name) for name in common]
    ours, draws = ranks.point[places], ranks.draws[:, places]
    # Ranks that are all equal are no order, and agree with none.
    correlations = np.nan_to_num(spearman(np.vstack([ours, draws]), paper))
    better, worse = np.nonzero(paper[:, None] < paper[None, :])
    differences = draws[:, worse] - draws[:, better]
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    return Agreement(
        num=len(common),
        spearman=interval(float(correlations[0]), correlations[1:]),
        chance=chance_level(len(common)),
        num_pairs=len(better),
        same_order=int((ours[worse] > ours[better]).sum()),
        told_apart=int(((low > 0) | (high < 0)).sum()),
        told_apart_same=int((low > 0).sum()),
    )


def judged(claim: Claim, ranks: Mapping[str, Ranks]) -> Interval | None:
    """Our difference of the ranks that a claim compares: above 0 as claimed, None if untested."""
    of = ranks.get(claim.column)
    if of is None or not {claim.better, claim.worse} <= set(of.formulations):
        return None
    return of.difference(claim.worse, claim.better)


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    return below + (equal - 1) / 2


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(-1, keepdims=True)
