"""Figures of the formulation study: ranks, scores over steps (Fig. 3), errors of the velocity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from rectiflow.pages.ink import STYLE, inline_svg, png_file, svg_file
from rectiflow.scaling.formulation_results import Findings
from rectiflow.scaling.formulation_tables import COLUMN_NAMES, marked
from rectiflow.scaling.measures import Setting
from rectiflow.scaling.paper_values import TABLE_1
from rectiflow.scaling.ranking import Ranks
from rectiflow.scaling.resampling import CLIP, FRECHET, Interval

OURS, PAPER = "#2f86d6", "#e0771b"
GROUPS: Final = ("edm", "rf", "eps", "v")
"""Panels of Fig. 3: what the names of formulations begin with."""

MAX_CURVES: Final = 8
"""Of one panel of Fig. 3; of more formulations the best are shown."""

_MARKERS: Final = "osD^vPX*"


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure in the forms that reports need.

    Args:
        svg: A file.
        png: A file.
        inline: An <svg> element in the ink of the page around it.
    """

    svg: bytes
    png: bytes
    inline: str


def drawn_figures(findings: Findings) -> dict[str, Drawn]:
    """All figures by name."""
    makers: dict[str, Callable[[Findings], Figure]] = {
        "ranks": ranks_figure,
        "steps": steps_figure,
        "velocity_error": velocity_error_figure,
    }
    found = {}
    for name, make in makers.items():
        with matplotlib.rc_context(STYLE):
            figure = make(findings)
            found[name] = Drawn(svg_file(figure), png_file(figure), inline_svg(figure))
    return found


def ranks_figure(findings: Findings) -> Figure:
    """Average ranks with their intervals beside those of Table 1, one panel a column."""
    figure = _tall_figure(findings)
    panels = figure.subplots(1, len(findings.ranks), sharey=True, squeeze=False)[0]
    for axes, (column, ranks) in zip(panels, findings.ranks.items(), strict=True):
        _ranks_panel(axes, findings.order, ranks, column)
    _name_rows(panels[0], findings)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def steps_figure(findings: Findings) -> Figure:
    """Fig. 3: both scores over the steps at guidance scale 5, averaged weights, by group."""
    groups = {group: _of_group(findings, group) for group in GROUPS}
    groups = {group: names for group, names in groups.items() if names}
    figure = Figure(figsize=(3.2 * max(2, len(groups)), 7.4), layout="constrained")
    rows = figure.subplots(2, len(groups), sharex=True, sharey="row", squeeze=False)
    for column, (group, names) in enumerate(groups.items()):
        for axes, score in zip(rows[:, column], (FRECHET, CLIP), strict=True):
            for k, name in enumerate(names):
                _steps_curve(axes, findings, name, score, k)
        rows[0, column].set_title(group)
        rows[1, column].set_xlabel("steps of Euler")
        # Under the panel: over the curves there is no place that is free in every study.
        rows[1, column].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8.5)
    rows[0, 0].set_ylabel("Frechet distance (less is better)")
    rows[1, 0].set_ylabel("CLIP score (more is better)")
    rows[0, 0].set_yscale("log")
    _log_ticks(rows[0, 0].yaxis)
    _step_ticks(rows[1, 0])
    return figure


def velocity_error_figure(findings: Findings) -> Figure:
    """Error of the velocity on rectified flow's scale: the mean over seeds, and every seed."""
    figure = _tall_figure(findings)
    axes = figure.subplots()
    shown = []
    for row, name in enumerate(findings.order):
        runs = findings.results.of(name)
        errors = [run.velocity_error_ema for run in runs if run.velocity_error_ema is not None]
        shown += errors
        if errors:
            axes.plot(errors, [row] * len(errors), "o", color=OURS, alpha=0.4, markersize=4)
            axes.plot(sum(errors) / len(errors), row, "s", color=OURS, markersize=6)
    _name_rows(axes, findings)
    axes.set_xlabel("squared error of the velocity, on rectified flow's scale")
    if shown and max(shown) > 10 * min(shown):
        axes.set_xscale("log")
        _log_ticks(axes.xaxis)
    return figure


def _ranks_panel(axes: Axes, order: Sequence[str], ranks: Ranks, column: str) -> None:
    for row, name in enumerate(order):
        value, low, high = ranks[name]
        axes.plot([low, high], [row, row], color=OURS, linewidth=2.2, alpha=0.45)
        axes.plot(
            value, row, "o", color=OURS, label="here, with 95 % interval" if not row else None
        )
    known = [(row, TABLE_1[name]) for row, name in enumerate(order) if name in TABLE_1]
    if known:
        values = [getattr(ranks_there, column) for _, ranks_there in known]
        axes.plot(
            values,
            [row for row, _ in known],
            "D",
            markerfacecolor="none",
            color=PAPER,
            markersize=5,
            label="paper, Table 1: among 61 formulations",
        )
    axes.set_title(COLUMN_NAMES[column])
    axes.set_xlabel("average rank (1 is best)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _steps_curve(axes: Axes, findings: Findings, name: str, score: int, k: int) -> None:
    points = [(steps * 1.012**k, each) for steps, each in _curve_of(findings, name, score)]
    axes.errorbar(
        [steps for steps, _ in points],
        [each.value for _, each in points],
        yerr=[
            [max(0.0, each.value - each.low) for _, each in points],
            [max(0.0, each.high - each.value) for _, each in points],
        ],
        color=f"C{k}",
        marker=_MARKERS[k],
        markersize=4,
        linewidth=1.3,
        elinewidth=0.8,
        label=name,
    )


def _of_group(findings: Findings, group: str) -> list[str]:
    """The best of a group that have anything to show."""
    names = [name for name in findings.order if _curve_of(findings, name, CLIP)]
    stems = {name: name.partition("/")[0].partition("(")[0] for name in names}
    return [name for name in names if stems[name] == group][:MAX_CURVES]


def _curve_of(findings: Findings, name: str, score: int) -> list[tuple[int, Interval]]:
    """(steps, score) where there is one."""
    settings = [Setting("ema", num_steps, 5.0) for num_steps in (5, 10, 25, 50)]
    found = [(s.num_steps, findings.scores.interval(name, s, score)) for s in settings]
    return [(steps, each) for steps, each in found if each is not None]


def _tall_figure(findings: Findings) -> Figure:
    return Figure(figsize=(11, 1.4 + 0.27 * len(findings.order)), layout="constrained")


def _name_rows(axes: Axes, findings: Findings) -> None:
    num = len(findings.order)
    axes.set_yticks(range(num), [marked(findings, name) for name in findings.order])
    axes.set_ylim(num - 0.4, -0.6)


def _log_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 times powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def _step_ticks(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xticks([5, 10, 25, 50], ["5", "10", "25", "50"])
    axes.xaxis.set_minor_formatter(NullFormatter())
