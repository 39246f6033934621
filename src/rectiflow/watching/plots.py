"""Which charts tell of a run, and of several."""

from collections.abc import Sequence

import numpy as np

from rectiflow.config import nearest
from rectiflow.watching.charts import (
    TIME_LABEL,
    Draw,
    draw_curves,
    draw_loss,
    draw_shapes,
    draw_tenths,
    draw_times,
)
from rectiflow.watching.history import Curve, losses_by_stage, smoothed, thinned
from rectiflow.watching.records import RunRecord
from rectiflow.watching.summary import validation

_WIDE = 100  # largest value of a metric over its least from which the axis is logarithmic
_SMOOTHING = 25  # points that the training loss of one of many runs is averaged over


def run_charts(record: RunRecord) -> list[Draw]:
    """Charts of one run: losses, losses by time, what else was logged."""
    history = record.history
    marks = [each["to_step"] for each in record.roll_backs if isinstance(each.get("to_step"), int)]
    charts = [draw_loss(history, marks), draw_times(history), draw_tenths(history)]
    for title, names, is_log in (
        ("Gradient norm", ("gradient_norm",), True),
        ("Learning rate", ("learning_rate",), False),
        ("Samples per second", ("samples_per_second",), False),
        ("Largest attention logit", ("attention_logit_max",), False),
        ("Attention entropy", ("attention_entropy",), False),
    ):
        curves = [(name, history.curve(name)) for name in names if len(history.curve(name).steps)]
        if curves:
            charts.append(draw_curves(title, curves, is_log=is_log))
    return charts


def runs_charts(records: Sequence[RunRecord]) -> list[Draw]:
    """Charts of many runs; the ten with the least validation error have colours."""
    ordered = ranked(records)
    shapes = []
    for record in ordered:
        stages = losses_by_stage(record.history, 5)
        if stages:
            shapes.append((record.name, stages[-1][1]))
    names = {
        "val_loss_ema": "Validation loss, averaged weights",
        "val_loss": "Validation loss",
        "velocity_error_ema": "Error of the velocity, averaged weights",
    }
    charts = [
        draw_curves("Training loss", [(r.name, _loss_over_images(r)) for r in ordered], "pictures"),
        *(
            draw_curves(
                title,
                [(r.name, _over_images(r, r.history.curve(name))) for r in ordered],
                "pictures",
            )
            for name, title in names.items()
            if any(len(r.history.curve(name).steps) for r in ordered)
        ),
        draw_curves("Training loss by the clock", [_by_clock(r) for r in ordered], "minutes"),
    ]
    if shapes:
        charts.append(draw_shapes("Training loss by time, last fifth", shapes, TIME_LABEL))
    return charts


def metric_charts(records: Sequence[RunRecord], names: Sequence[str]) -> list[Draw]:
    """One chart for each of these metrics, over steps, with a curve for each run that logged it.

    Raises:
        ValueError: If none of the runs logged a metric of that name; the nearest is suggested.
    """
    known = sorted({name for record in records for name in record.history.curves})
    charts = []
    for name in names:
        if name not in known:
            raise ValueError(f"no run logged a metric {name!r}; {nearest(name, known)}")
        # A run without the metric has its place all the same: colours are as in other charts.
        curves = [(record.name, record.history.curve(name)) for record in records]
        values = np.concatenate([curve.values for _, curve in curves])
        is_log = bool(values.min() > 0 and values.max() > _WIDE * values.min())
        charts.append(draw_curves(name, curves, is_log=is_log))
    return charts


def ranked(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs by what compares them: the error of the velocity if all measured it, else the loss."""
    measured = {record.name: record.metric("velocity_error_ema") for record in records}
    if any(value is None for value in measured.values()):
        measured = {record.name: validation(record) for record in records}

    def place(record: RunRecord) -> tuple[float, str]:
        value = measured[record.name]
        return (float("inf") if value is None else value, record.name)

    return sorted(records, key=place)


def _loss_over_images(record: RunRecord) -> Curve:
    curve = thinned(record.history.curve("loss"), 200)
    return _over_images(record, Curve(curve.steps, smoothed(curve.values, _SMOOTHING)))


def _over_images(record: RunRecord, curve: Curve) -> Curve:
    return Curve(curve.steps * (record.batch_size or 1), curve.values)


def _by_clock(record: RunRecord) -> tuple[str, Curve]:
    loss, clock = record.history.curve("loss"), record.history.curve("elapsed_seconds")
    minutes = np.interp(loss.steps, *clock) / 60 if len(clock.steps) else loss.steps[:0]
    curve = thinned(Curve(minutes, loss.values[: len(minutes)]), 200)
    return record.name, Curve(curve.steps, smoothed(curve.values, _SMOOTHING))
