"""What is to be said of a run in a line, and in a page of text."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rectiflow.pages.words import duration, shown
from rectiflow.watching.history import Least, losses_by_stage
from rectiflow.watching.records import RunRecord

LIST_HEAD = (
    *("run", "status", "step", "loss", "validation", "samples/s", "took", "left", "written"),
    "note",
)
_BAR = 30  # characters of the longest
_VALIDATIONS = ("val_loss_ema", "val_loss")


def facts_of(record: RunRecord, now: float) -> dict[str, Any]:
    """The plain values of a run, for a machine; what is not known is None.

    Args:
        record: The run.
        now: The time, seconds since 1970.
    """
    best = best_validation(record)
    return {
        "name": record.name,
        "folder": str(record.run.folder),
        "status": record.status,
        "step": record.step,
        "total_steps": record.total_steps,
        "images_seen": images_seen(record),
        "loss": record.history.recent("loss"),
        "validation": validation(record),
        "best_validation": None if best is None else best.value,
        "best_step": None if best is None else best.step,
        "samples_per_second": record.history.recent("samples_per_second"),
        "elapsed_seconds": record.metric("elapsed_seconds"),
        "seconds_left": record.seconds_left,
        "seconds_since_written": max(0.0, now - record.updated),
        "notes": notes_of(record),
    }


def list_rows(records: Sequence[RunRecord], now: float) -> list[list[str]]:
    """A line for each run, under `LIST_HEAD`."""
    rows = []
    for facts in (facts_of(record, now) for record in records):
        total = facts["total_steps"]
        rows.append(
            [
                facts["name"],
                facts["status"],
                f"{facts['step']:,}/{'?' if total is None else f'{total:,}'}",
                number(facts["loss"]),
                number(facts["validation"]),
                number(facts["samples_per_second"], 3),
                _time(facts["elapsed_seconds"]),
                _time(facts["seconds_left"]),
                f"{duration(facts['seconds_since_written'])} ago",
                "; ".join(facts["notes"]),
            ]
        )
    return rows


def filled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that hold nothing."""
    kept = [k for k in range(len(head)) if k == 0 or any(row[k] not in ("", "-") for row in rows)]
    return [head[k] for k in kept], [[row[k] for k in kept] for row in rows]


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, columns as wide as what they hold; numbers stand to the right."""
    lines = [head, *rows]
    widths = [max(len(row[k]) for row in lines) for k in range(len(head))]
    is_left = [k == 0 or name in ("status", "note") for k, name in enumerate(head)]
    return [
        "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_left, strict=True)
        ).rstrip()
        for row in lines
    ]


def show_lines(record: RunRecord, now: float) -> list[str]:
    """All there is to say of one run, as text."""
    lines = [headline(record, now), ""]
    lines += [f"  {name:<14} {value}" for name, value in details(record)]
    if rows := metric_rows(record):
        lines += ["", *(f"  {line}" for line in text_table(METRIC_HEAD, rows))]
    stages = losses_by_stage(record.history, 5)
    if stages:
        label, losses = stages[-1]
        lines += ["", f"  training loss by time, {label}:"]
        lines += [f"  {line}" for line in _bars(losses)]
    return [*lines, *(f"  ! {note}" for note in notes_of(record))]


def headline(record: RunRecord, now: float) -> str:
    """One sentence: what state the run is in, how far it is, how fast."""
    facts = facts_of(record, now)
    total = "?" if facts["total_steps"] is None else f"{facts['total_steps']:,}"
    parts = [f"{record.run.folder}: {record.status}, {facts['step']:,} of {total} steps"]
    if facts["images_seen"] is not None:
        parts.append(f"{facts['images_seen']:,} pictures")
    if facts["elapsed_seconds"] is not None:
        parts.append(duration(facts["elapsed_seconds"]))
    if facts["samples_per_second"] is not None:
        parts.append(f"{facts['samples_per_second']:.3g} samples/s")
    if facts["seconds_left"] is not None:
        parts.append(f"{duration(facts['seconds_left'])} left")
    parts.append(f"written {duration(facts['seconds_since_written'])} ago")
    return ", ".join(parts)


def details(record: RunRecord) -> list[tuple[str, str]]:
    """Facts of a run with their names; what is not known is left out."""
    result = record.result
    settings = (
        ("recipe", "name"),
        ("seed", "seed"),
        ("network", "model.kind"),
        ("formulation", "objective.formulation"),
        ("data", "data.kind"),
        ("batch size", "training.batch_size"),
        ("optimizer", "training.optimizer"),
    )
    found = [(name, record.setting(path)) for name, path in settings]
    found += [("parameters", result.get("num_parameters")), ("precision", result.get("precision"))]
    found += [(name, result.get(name)) for name in ("device", "machine", "torch")]
    lines = [(name, shown(value)) for name, value in found if value is not None]
    if record.checkpoints:
        lines.append(("checkpoints", ", ".join(f"{step:,}" for step in record.checkpoints)))
    if record.sheets:
        first, last = record.sheets[0], record.sheets[-1]
        steps = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
        lines.append(("pictures", f"sheets drawn: {len(record.sheets)}, {steps}"))
    return lines


METRIC_HEAD = ("metric", "last", "least", "at step")


def metric_rows(record: RunRecord) -> list[list[str]]:
    """Each metric that is no time: its last value, its least, and where that was."""
    rows = []
    for name, curve in sorted(record.history.curves.items()):
        if name.endswith(("_seconds", "_per_second")):
            continue
        least = record.history.least(name)
        best = ["-", "-"] if least is None else [number(least.value), f"{least.step:,}"]
        rows.append([name, number(curve.values[-1]), *best])
    return rows


def notes_of(record: RunRecord) -> list[str]:
    """What a person should know beside the numbers."""
    notes = []
    if record.diverged is not None:
        notes.append(f"diverged: {record.diverged}")
    if record.roll_backs:
        places = ", ".join(
            f"{each.get('step', '?')} to {each.get('to_step', '?')}" for each in record.roll_backs
        )
        times = "once" if len(record.roll_backs) == 1 else f"{len(record.roll_backs)} times"
        notes.append(f"went back {times}: step {places}")
    return [*notes, *record.problems]


def images_seen(record: RunRecord) -> int | None:
    """Samples that the run has learned from."""
    return None if record.batch_size is None else record.step * record.batch_size


def validation(record: RunRecord) -> float | None:
    """The last validation loss, of the averaged weights where they were validated."""
    found = (record.metric(name) for name in _VALIDATIONS)
    return next((value for value in found if value is not None), None)


def best_validation(record: RunRecord) -> Least | None:
    """The least validation loss, of the averaged weights where they were validated."""
    found = (record.history.least(name) for name in _VALIDATIONS)
    return next((least for least in found if least is not None), None)


def number(value: float | None, digits: int = 4) -> str:
    """A measured value in a table."""
    return "-" if value is None else f"{value:.{digits}g}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _bars(losses: np.ndarray) -> list[str]:
    longest = float(np.nanmax(losses)) if np.isfinite(losses).any() else 0.0
    lines = []
    for k, loss in enumerate(losses.tolist()):
        ends = f"{k / len(losses):.1f}-{(k + 1) / len(losses):.1f}"
        bar = "#" * round(_BAR * loss / longest) if np.isfinite(loss) and longest > 0 else ""
        lines.append(f"{ends}  {number(loss) if np.isfinite(loss) else '-':>9}  {bar}".rstrip())
    return lines
