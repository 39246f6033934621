"""Curves of one run and of many, as charts for a page or for a file."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rectiflow.pages.ink import STYLE, inline_svg, png_file, svg_file
from rectiflow.watching.history import (
    RECENT_LINES,
    Curve,
    History,
    losses_by_stage,
    smoothed,
    thinned,
)

Draw = Callable[[Axes], None]
"""Draws one chart."""

TRAIN, VALIDATION, AVERAGED = "#8f8f8f", "#e0771b", "#2f86d6"
MARK = "#b3372b"
STAGES = 5  # parts of the training that the losses by time are averaged over
TIME_LABEL = "t  (0 = data, 1 = noise)"


def draw_loss(history: History, marks: Sequence[int] = ()) -> Draw:
    """Training loss, and validation loss of the weights and of their average, over steps.

    Args:
        history: Of one run.
        marks: Steps with a line, at which the run went back to a checkpoint.
    """

    def draw(axes: Axes) -> None:
        _label(axes, "Loss", "step")
        loss = thinned(history.curve("loss"))
        if len(loss.steps):
            axes.plot(*loss, color=TRAIN, linewidth=0.8, alpha=0.45)
            curve = smoothed(loss.values, RECENT_LINES)
            axes.plot(loss.steps, curve, color=TRAIN, linewidth=1.8, label="training")
        for name, color, label in (
            ("val_loss", VALIDATION, "validation"),
            ("val_loss_ema", AVERAGED, "validation, averaged weights (EMA)"),
        ):
            values = thinned(history.curve(name))
            if len(values.steps):
                axes.plot(*values, "o-", color=color, markersize=4, label=label)
        for k, step in enumerate(marks):
            label = "" if k else "went back to a checkpoint"
            axes.axvline(step, color=MARK, linewidth=1, linestyle=":", label=label)
        _cut_the_start(axes, [loss.values], [history.curve("val_loss").values])
        _finish(axes)

    return draw


def draw_times(history: History) -> Draw:
    """Training loss by time t, one curve for each part of the training."""

    def draw(axes: Axes) -> None:
        _label(axes, "Training loss by time", TIME_LABEL)
        stages = losses_by_stage(history, STAGES)
        colors = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.25, max(1, len(stages))))
        for (label, losses), color in zip(stages, colors, strict=False):
            axes.plot(_centres(losses), losses, "o-", color=color, markersize=4, label=label)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        _legend(axes)

    return draw


def draw_tenths(history: History) -> Draw:
    """Training loss over steps, one curve for each tenth of time, on a logarithmic scale."""

    def draw(axes: Axes) -> None:
        _label(axes, "Training loss of each tenth of time", "step")
        steps, table = history.table("loss_by_t")
        num = table.shape[1]
        colors = matplotlib.colormaps["viridis"](np.linspace(0.2, 0.88, max(1, num)))
        for k in range(num):
            has = np.isfinite(table[:, k]) & (table[:, k] > 0)
            curve = thinned(Curve(steps[has], table[has, k]), 200)
            if len(curve.steps):
                label = f"t {k / num:.1f}-{(k + 1) / num:.1f}"
                values = smoothed(curve.values, 2 * RECENT_LINES)
                axes.semilogy(curve.steps, values, color=colors[k], linewidth=1.3, label=label)
        axes.set_xlim(left=0)
        _legend(axes, columns=2)

    return draw


def draw_curves(
    title: str, curves: Sequence[tuple[str, Curve]], x_label: str = "step", is_log: bool = False
) -> Draw:
    """Curves by their labels; those after the tenth are grey and have none."""

    def draw(axes: Axes) -> None:
        _label(axes, title, x_label)
        for (label, curve), color in zip(curves, colors_of(len(curves)), strict=True):
            points = thinned(curve)
            if not len(points.steps):
                continue
            is_grey = color == TRAIN
            axes.plot(
                *points,
                marker="o" if len(points.steps) < 25 and not is_grey else "",
                markersize=3,
                color=color,
                linewidth=0.7 if is_grey else 1.4,
                zorder=1 if is_grey else 2,
                label="" if is_grey or len(curves) == 1 else plain(label),
            )
        if is_log and axes.lines:
            axes.set_yscale("log")
        else:
            levels = [curve.values for _, curve in curves if len(curve.steps) >= 20]
            _cut_the_start(axes, levels, [c.values for _, c in curves if len(c.steps) < 20])
        _finish(axes)

    return draw


def draw_shapes(title: str, shapes: Sequence[tuple[str, np.ndarray]], x_label: str) -> Draw:
    """Values at equal parts of [0, 1], one curve a label."""

    def draw(axes: Axes) -> None:
        _label(axes, title, x_label)
        for (label, values), color in zip(shapes, colors_of(len(shapes)), strict=True):
            is_grey = color == TRAIN
            axes.plot(
                _centres(values),
                values,
                "-" if is_grey else "o-",
                color=color,
                linewidth=0.7 if is_grey else 1.4,
                markersize=4,
                zorder=1 if is_grey else 2,
                label="" if is_grey else plain(label),
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        _legend(axes)

    return draw


NUM_COLORS = 10
MOST_INSIDE = 5  # entries of a legend that stands among the curves


def colors_of(num: int) -> list[str]:
    """A colour for each curve: ten that can be told apart, grey for those that follow."""
    colors = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    names = [matplotlib.colors.to_hex(color) for color in colors if color != colors[7]]
    names.append("#1d2f6f")
    return [names[k] if k < NUM_COLORS else TRAIN for k in range(num)]


def plain(label: str) -> str:
    """A label that is shown as it is: neither as mathematics, nor hidden for a leading "_"."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def inline_chart(draw: Draw) -> str:
    """The chart as an <svg> element for a page."""
    with _styled():
        figure = Figure(figsize=(5.6, 3.5), layout="constrained")
        draw(figure.subplots())
        return inline_svg(figure)


def chart_file(draws: Sequence[Draw], suffix: str) -> bytes:
    """Charts side by side, two in a row, as a file of their own.

    Args:
        draws: At least one.
        suffix: ".svg" or ".png".
    """
    rows = -(-len(draws) // 2)
    columns = min(2, len(draws))
    # Tight, because legends below the charts upset the margins that the layout finds.
    with _styled(), matplotlib.rc_context({"savefig.bbox": "tight"}):
        figure = Figure(figsize=(5.6 * columns, 3.5 * rows), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, draw in zip(places, draws, strict=False):
            draw(axes)
        for axes in places[len(draws) :]:
            axes.set_axis_off()
        return svg_file(figure) if suffix == ".svg" else png_file(figure)


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Of names in scripts that matplotlib's font lacks; a browser has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _label(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(plain(title))
    axes.set_xlabel(x_label)


def _centres(values: np.ndarray) -> np.ndarray:
    return (np.arange(len(values)) + 0.5) / max(1, len(values))


def _finish(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.ticklabel_format(axis="x", style="plain", useOffset=False)
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: _short(x)))
    _legend(axes)


def _short(x: float) -> str:
    """A number of steps or pictures on an axis: 500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(x) >= 10 * size or (abs(x) >= size and unit != "k"):
            return f"{x / size:g}{unit}"
    return f"{x:g}"


def _legend(axes: Axes, columns: int = 1) -> None:
    num = len(axes.get_legend_handles_labels()[1])
    if num > MOST_INSIDE and columns == 1:  # below, where they hide no curve
        axes.legend(ncols=2, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    elif num:
        axes.legend(ncols=columns, fontsize=8)


def _cut_the_start(
    axes: Axes, curves: Sequence[np.ndarray], others: Sequence[np.ndarray] = ()
) -> None:
    """Leave the first lines out of the picture: their height would flatten all that follows."""
    long = [values for values in curves if len(values) >= 20]
    if not long:
        return
    rest = np.concatenate([*(v[len(v) // 20 :] for v in long), *others])
    top = np.quantile(rest, 0.998)  # so does a single outlier
    margin = 0.05 * (top - rest.min()) or 0.01
    axes.set_ylim(rest.min() - margin, top + margin)
