"""The figure of a study: validation loss over pictures, scores at the end."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from rectiflow.scaling.intervals import estimate
from rectiflow.scaling.results import METRICS, Metric, Result
from rectiflow.scaling.study import Study
from rectiflow.scaling.tables import Groups

TICKS = (1, 1.5, 2, 3, 4, 5, 7)  # of a decade: a loss axis seldom spans more than one
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rectiflow",  # the same runs give the same file
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
}


def study_figure(groups: Groups, study: Study) -> str:
    """An SVG: curves of validation loss, and each score with its interval and its single runs."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        curves, *others = figure.subplots(1, len(METRICS), width_ratios=[2, 1, 1])
        colors = {name: f"C{row % 10}" for row, name in enumerate(study.labels)}
        for name, results in groups.items():
            _curve(curves, results, study.labels[name], colors[name])
        curves.set(title=METRICS[0].label, xlabel="pictures seen", yscale="log")
        curves.yaxis.set(major_locator=LogLocator(subs=TICKS), minor_locator=NullLocator())
        curves.yaxis.set_major_formatter("{x:g}")
        if groups:
            curves.legend(loc="upper right")  # losses fall, so it is free
        for axes, metric in zip(others, METRICS[1:], strict=True):
            _scores(axes, groups, metric, study, colors)
        out = StringIO()
        nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", facecolor="white", metadata=nothing)
    lines = out.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _curve(axes: Axes, results: Sequence[Result], label: str, color: str) -> None:
    """The mean over seeds of the pictures that all of them were measured at, and its interval."""
    losses = [dict(result.curve) for result in results]
    seen = sorted(set.intersection(*(set(each) for each in losses)))
    estimates = [estimate([each[num] for each in losses]) for num in seen]
    means = np.array([each.mean for each in estimates])
    axes.plot(seen, means, "o-", color=color, label=label, markersize=4)
    if all(each.half_width is not None for each in estimates):
        half = np.array([each.half_width for each in estimates])
        axes.fill_between(seen, means - half, means + half, color=color, alpha=0.15, linewidth=0)


def _scores(
    axes: Axes, groups: Groups, metric: Metric, study: Study, colors: Mapping[str, str]
) -> None:
    for row, (name, results) in enumerate(groups.items()):
        values = [r.values[metric.name] for r in results if metric.name in r.values]
        if not values:
            continue
        whole = estimate(values)
        axes.plot(values, [row] * len(values), "o", color=colors[name], alpha=0.35, markersize=4)
        axes.errorbar(
            whole.mean, row, xerr=whole.half_width or 0, fmt="s", color=colors[name], capsize=3
        )
    axes.set_yticks(range(len(groups)), [study.labels[name] for name in groups])
    axes.invert_yaxis()
    axes.set(title=metric.label)
