"""Curves of a run, as charts that stand in a page."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rectiflow.pages.ink import STYLE, inline_svg

Rows = Sequence[Mapping[str, Any]]

TRAIN, VALIDATION, AVERAGED = "#8f8f8f", "#e0771b", "#2f86d6"
STAGES = 5  # parts of the training that the losses by time are averaged over
SMOOTHING = 9  # logged lines that the training loss is averaged over


def series(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, at the lines that have it."""
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(steps, np.float64), np.asarray(values, np.float64)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Centred running mean; at the ends over as many values as there are on both sides."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), width // 2)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def losses_by_stage(rows: Rows, num_stages: int) -> list[tuple[str, np.ndarray]]:
    """Loss of every tenth of time, averaged over equal parts of the training.

    Returns:
        (steps of the part, shape (10,) losses), oldest first; nan where no sample fell.
    """
    found = [(row["step"], row["loss_by_t"]) for row in rows if row.get("loss_by_t")]
    stages = []
    start = 0
    for part in np.array_split(np.arange(len(found)), min(num_stages, len(found)) or 1):
        if not len(part):
            continue
        table = np.asarray([found[i][1] for i in part], np.float64)  # None becomes nan
        present = ~np.isnan(table)
        counts = present.sum(0)
        sums = np.where(present, table, 0.0).sum(0)
        means = np.divide(sums, counts, out=np.full(table.shape[1], np.nan), where=counts > 0)
        last = found[part[-1]][0]
        stages.append((f"steps {start + 1:,}-{last:,}", means))
        start = last
    return stages


def loss_chart(rows: Rows) -> str:
    """Training loss, and validation loss of the weights and of their average, over steps."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new("Loss", "step")
        steps, losses = series(rows, "loss")
        if len(steps):
            axes.plot(steps, losses, color=TRAIN, linewidth=0.8, alpha=0.45)
            curve = smoothed(losses, SMOOTHING)
            axes.plot(steps, curve, color=TRAIN, linewidth=1.8, label="training")
        for name, color, label in (
            ("val_loss", VALIDATION, "validation"),
            ("val_loss_ema", AVERAGED, "validation, averaged weights (EMA)"),
        ):
            steps, values = series(rows, name)
            if len(steps):
                axes.plot(steps, values, "o-", color=color, markersize=4, label=label)
        _cut_the_start(axes, rows)
        axes.set_xlim(left=0)
        if axes.lines:
            axes.legend()
        return inline_svg(figure)


def time_chart(rows: Rows) -> str:
    """Training loss by time t, one curve for each part of the training."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _new("Training loss by time", "t  (0 = data, 1 = noise)")
        stages = losses_by_stage(rows, STAGES)
        colors = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.25, max(1, len(stages))))
        for (label, means), color in zip(stages, colors, strict=False):
            centres = (np.arange(len(means)) + 0.5) / len(means)
            axes.plot(centres, means, "o-", color=color, markersize=4, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        if stages:
            axes.legend()
        return inline_svg(figure)


def _new(title: str, x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    return figure, axes


def _cut_the_start(axes: Axes, rows: Rows) -> None:
    """Leave the first lines out of the picture: their height would flatten all that follows."""
    losses = series(rows, "loss")[1]
    if len(losses) >= 20:
        rest = np.concatenate([losses[len(losses) // 20 :], series(rows, "val_loss")[1]])
        margin = 0.05 * np.ptp(rest)
        axes.set_ylim(rest.min() - margin, rest.max() + margin)
