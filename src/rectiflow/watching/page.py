"""Runs as one HTML page that needs no network, script or other file; or as a figure."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from rectiflow.pages.parts import folded, grid, page, picture, section, table, tiles
from rectiflow.pages.words import duration, shown
from rectiflow.runs import write_bytes
from rectiflow.sampling.images import PAPER
from rectiflow.watching.charts import NUM_COLORS, Draw, chart_file, inline_chart
from rectiflow.watching.comparing import SIDE_BY_SIDE, Comparison, Row, compare, flat
from rectiflow.watching.plots import metric_charts, ranked, run_charts, runs_charts
from rectiflow.watching.records import RunRecord
from rectiflow.watching.sheets import Moments, moments_of
from rectiflow.watching.summary import (
    LIST_HEAD,
    METRIC_HEAD,
    best_validation,
    details,
    filled,
    headline,
    list_rows,
    metric_rows,
    notes_of,
    number,
    validation,
)

SUFFIXES = (".html", ".svg", ".png")
_MOST_PICTURES = 16


def write_plot(
    records: Sequence[RunRecord], out: Path, now: float, metrics: Sequence[str] = ()
) -> None:
    """Write what there is to see of one run, or of several beside each other.

    Args:
        records: At least one.
        out: A page (.html), or the charts alone (.svg, .png).
        now: The time, seconds since 1970.
        metrics: Names of the only ones to draw, none meaning a choice; for charts alone.

    Raises:
        ValueError: If there is no run, `out` has another suffix, or no run has one of the metrics.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"the file must end in one of {', '.join(SUFFIXES)}, got {out}")
    if not records:
        raise ValueError("there is no run to plot")
    if metrics:
        if out.suffix == ".html":
            raise ValueError(f"chosen metrics are drawn as .svg or .png, not on a page, got {out}")
        write_bytes(out, chart_file(metric_charts(records, metrics), out.suffix))
        return
    if out.suffix == ".html":
        text = run_page(records[0], now) if len(records) == 1 else runs_page(records, now)
        write_bytes(out, text.encode())
        return
    charts = run_charts(records[0]) if len(records) == 1 else runs_charts(records)
    write_bytes(out, chart_file(charts, out.suffix))


def run_page(record: RunRecord, now: float) -> str:
    """The page of one run."""
    best = best_validation(record)
    left = record.seconds_left
    total = "?" if record.total_steps is None else f"{record.total_steps:,}"
    facts = [
        (record.status, "status"),
        (f"{record.step:,} / {total}", "steps"),
        (number(validation(record)), "validation loss"),
        (number(None if best is None else best.value), "least validation loss"),
        (number(record.history.recent("samples_per_second"), 3), "samples per second"),
    ]
    if left is not None:
        facts.append((duration(left), "left"))
    body = [
        f'<h1>{escape(record.name)}</h1>\n<p class="soft">{escape(headline(record, now))}</p>',
        _warned(notes_of(record)),
        tiles((name, value) for value, name in facts),
        section("Curves", _CURVES_NOTE, _charts(run_charts(record))),
        _pictures(record),
        section("Facts", "What the run's folder says.", _facts(record)),
    ]
    return page(record.name, "\n".join(body))


_CURVES_NOTE = (
    "Thin and grey is each logged line, thick its running mean. Validation is on held-out samples "
    "with fixed noise and times, so that two of its points compare; training losses vary with "
    "the times that were drawn."
)


def runs_page(records: Sequence[RunRecord], now: float) -> str:
    """The page of several runs."""
    comparison = compare(records)
    told = f"{len(records)} runs"
    many = (
        ""
        if len(records) <= NUM_COLORS
        else (
            f" The {NUM_COLORS} runs with the least validation error have colours, others are grey."
        )
    )
    body = [
        f"<h1>{told}</h1>",
        section("Overview", "As their folders are now.", _overview(records, now)),
        section("Recipes and results", _DIFFERENCES_NOTE, _differences(comparison)),
        section(
            "Curves",
            "Over pictures seen, so that batch sizes compare; training losses are running means."
            + many,
            _charts(runs_charts(records)),
        ),
        _newest_pictures(records),
    ]
    return page(told, "\n".join(body))


_DIFFERENCES_NOTE = "Settings that are the same in all of the runs are left out."


def _charts(charts: Sequence[Draw]) -> str:
    inside = "".join(f'<div class="chart">{inline_chart(chart)}</div>' for chart in charts)
    return f'<div class="charts">{inside}</div>'


def _overview(records: Sequence[RunRecord], now: float) -> str:
    return table(*filled(LIST_HEAD, list_rows(records, now)), "runs")


def _differences(comparison: Comparison) -> str:
    """Few runs stand beside each other, many below each other."""
    groups = (
        ("recipe", comparison.recipe),
        ("made on", comparison.made_on),
        ("result", comparison.results),
    )
    rows: list[tuple[str, Row]] = [(kind, row) for kind, each in groups for row in each]
    if len(comparison.names) <= SIDE_BY_SIDE:
        head = ["", "", *comparison.names]
        lines = [
            [kind if row is each[0] else "", row.name, *row.texts]
            for kind, each in groups
            for row in each
        ]
    else:
        head = ["run", *(row.name for _, row in rows)]
        lines = [
            [name, *(row.texts[k] for _, row in rows)] for k, name in enumerate(comparison.names)
        ]
    return _warned(comparison.notes) + table(head, lines, "runs")


def _warned(notes: Sequence[str]) -> str:
    return "".join(f"<p>&#9888; {escape(note)}</p>" for note in notes)


def _pictures(record: RunRecord) -> str:
    moments = _moments(record, 7)
    if moments is None or not moments.steps:
        return ""
    head = ["", *(f"step {step:,}" for step in moments.steps)]
    rows = []
    for j, caption in enumerate(moments.captions[:_MOST_PICTURES]):
        cells = "".join(
            f"<td>{picture(drawn[j], f'picture {j + 1} at step {step:,}')}</td>"
            for step, drawn in zip(moments.steps, moments.pictures, strict=True)
        )
        rows.append(f"<tr><th scope='row'>{_caption(caption)}</th>{cells}</tr>")
    note = "Each line is one prompt and one noise, drawn with the averaged weights."
    return section("Pictures over time", note, grid(head, "".join(rows), "strip"))


def _newest_pictures(records: Sequence[RunRecord]) -> str:
    """The newest pictures of runs that drew the same number of them, side by side."""
    shown_runs = []
    for record in ranked(records):
        moments = _moments(record, 1) if len(shown_runs) < 7 else None
        if moments is not None and moments.steps:
            shown_runs.append((record, moments))
    if len(shown_runs) < 2 or len({len(m.captions) for _, m in shown_runs}) > 1:
        return ""
    head = ["", *(f"{r.name}, step {m.steps[0]:,}" for r, m in shown_runs)]
    rows = []
    for j, caption in enumerate(shown_runs[0][1].captions[:_MOST_PICTURES]):
        cells = "".join(
            f"<td>{picture(m.pictures[0][j], f'picture {j + 1} of {r.name}')}</td>"
            for r, m in shown_runs
        )
        rows.append(f"<tr><th scope='row'>{_caption(caption)}</th>{cells}</tr>")
    note = "Each line is one place of the sheets; its prompt is that of the first run."
    return section("Newest pictures", note, grid(head, "".join(rows), "strip"))


def _moments(record: RunRecord, num: int) -> Moments | None:
    """Sheets of a flow; those of other kinds have no fixed number of pictures."""
    num_pictures, size_px = record.setting("sampling.num_pictures"), record.setting("data.size_px")
    is_told = isinstance(num_pictures, int) and isinstance(size_px, int)
    if not is_told or num_pictures < 1 or size_px < 1 or not record.sheets:
        return None
    return moments_of(record.run, record.sheets, num_pictures, size_px, num)


def _caption(image_u8: np.ndarray) -> str:
    """What the sheet says below a picture; nothing if it says nothing."""
    rows, columns = np.nonzero((image_u8 != PAPER).any(2))
    if not len(rows):
        return ""
    text = image_u8[: rows.max() + 1, : columns.max() + 1]
    return f'<span class="caption">{picture(text, "its prompt")}</span>'


def _facts(record: RunRecord) -> str:
    boxes = [f"<div><h3>Run</h3>{table([], details(record))}</div>"]
    if rows := metric_rows(record):
        boxes.append(f"<div><h3>Metrics</h3>{table(METRIC_HEAD, rows)}</div>")
    settings = [(name, shown(value)) for name, value in flat(record.config).items()]
    recipe = folded("The recipe", table(["setting", "value"], settings)) if settings else ""
    return f'<div class="facts">{"".join(boxes)}</div>{recipe}'
