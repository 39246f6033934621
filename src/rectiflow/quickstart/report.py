"""The report of a quickstart as one HTML page that needs no network, script or other file."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rectiflow.pages.parts import figure, folded, grid, page, picture, section, table, tiles
from rectiflow.pages.words import duration, shown
from rectiflow.quickstart.findings import Findings, Learning, ModelFindings
from rectiflow.watching.charts import draw_loss, draw_times, inline_chart
from rectiflow.watching.history import history_of

TITLE = "Quickstart report"
TASK_NAMES = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour binding",
    "text": "words",
}
CONTROLS = {
    "ground_truth": "control: true pictures",
    "round_trip": "control: true pictures through the autoencoder",
    "shuffled": "control: pictures judged by other prompts",
}


def report_html(findings: Findings) -> str:
    """The page."""
    sections = (
        f'<h1>{TITLE}</h1>\n<p class="soft">{escape(findings.headline)}</p>',
        _overview(findings),
        _side_by_side(findings),
        _learning(findings.learning),
        _scores(findings.fresh, findings.reference),
        _losses(findings),
        _facts(findings),
        _next(findings),
    )
    return page(TITLE, "\n".join(sections))


def score(value: float | None) -> str:
    """A score as the report writes it."""
    return "-" if value is None else f"{value:.2f}"


def _overview(findings: Findings) -> str:
    fresh, reference = findings.fresh, findings.reference
    return tiles(
        [
            (f"overall score, {fresh.name}", score(fresh.summary["overall"])),
            (f"overall score, {reference.name}", score(reference.summary["overall"])),
            ("steps of training", f"{fresh.facts['steps']:,}"),
            ("time from start to report", duration(sum(findings.seconds.values()))),
        ]
    )


def _side_by_side(findings: Findings) -> str:
    fresh, reference = findings.fresh, findings.reference
    cards = []
    for prompt, ours, theirs in zip(
        findings.prompts, fresh.pictures, reference.pictures, strict=True
    ):
        mark = ' <span class="mark">never trained on</span>' if prompt in findings.unseen else ""
        pair = "".join(
            figure(picture(image, f"{prompt}: {model.name}"), model.name)
            for image, model in ((ours, fresh), (theirs, reference))
        )
        cards.append(f'<div class="pair"><h3>{escape(prompt)}{mark}</h3><div>{pair}</div></div>')
    note = (
        f"Left the model that was just trained, right the reference, {reference.facts['model']}; "
        "both start from the same noise. Prompts marked “never trained on” combine "
        "things that no training picture shows together."
    )
    return section("Side by side", note, f'<div class="pairs">{"".join(cards)}</div>')


def _learning(learning: Learning) -> str:
    if not learning.steps:
        return section("As it learned", "No pictures were drawn during training.", "")
    rows = []
    for j, prompt in enumerate(learning.prompts):
        cells = "".join(
            f"<td>{picture(learning.pictures[i][j], f'{prompt}: after {step:,} steps')}</td>"
            for i, step in enumerate(learning.steps)
        )
        rows.append(f'<tr><th scope="row">{escape(prompt)}</th>{cells}</tr>')
    head = ["", *(f"step {step:,}" for step in learning.steps)]
    note = "The same prompts from the same noise, drawn with the averaged weights while it trained."
    return section("As it learned", note, grid(head, "".join(rows), "strip"))


def _scores(fresh: ModelFindings, reference: ModelFindings) -> str:
    models = (fresh, reference)
    tasks: list[str] = list(fresh.summary["tasks"])
    num = fresh.summary["num_prompts"] // max(1, len(tasks))
    rows = []
    for task in tasks:
        values = [(m.summary["tasks"][task], m.summary["strict_tasks"][task]) for m in models]
        rows.append(_score_row(TASK_NAMES.get(task, task), values))
    overall = [(m.summary["overall"], m.summary["strict"]) for m in models]
    rows.append(_score_row("overall, without words", overall, "total"))
    for key, name in CONTROLS.items():
        of = [m.summary.get("controls", {}).get(key, {}) for m in models]
        rows.append(_score_row(name, [(c.get("overall"), c.get("strict")) for c in of], "control"))
    head = ["task", *(f"{m.name}{kind}" for m in models for kind in ("", ", strict"))]
    note = (
        f"Share of pictures that show what was asked for, found by a program that reads them: "
        f"{num} prompts a task, one picture each. Strict also wants nothing else in the picture. "
        f"Overall is the mean of GenEval's six tasks. {_interval(fresh)} The last rows say what a "
        "score is worth: what true pictures get, and what chance gives."
    )
    return section("Scores", note, grid(head, "".join(rows)) + _judged(fresh, reference))


def _interval(model: ModelFindings) -> str:
    interval = model.summary.get("overall_interval")
    if not interval:
        return ""
    return (
        f"With other prompts, that of {model.name} would lie between {score(interval[0])} and "
        f"{score(interval[1])} (95 %)."
    )


def _score_row(
    name: str, values: Sequence[tuple[float | None, float | None]], kind: str = ""
) -> str:
    """A line of the table: for each model its score, with a bar behind it, and its strict one."""
    cells = []
    for (lenient, strict), shade in zip(values, ("score", "score reference"), strict=True):
        bar = f"--part:{lenient or 0:.4f}"
        cells.append(f'<td class="{shade}" style="{bar}">{score(lenient)}</td>')
        cells.append(f"<td>{score(strict)}</td>")
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _judged(fresh: ModelFindings, reference: ModelFindings) -> str:
    """Every scored picture with its verdict, folded up by task."""
    pairs: dict[str, list[str]] = {}
    for k, (row, other) in enumerate(zip(fresh.rows, reference.rows, strict=True)):
        each = "".join(_verdict(model, k) for model in (fresh, reference))
        text = f'<div class="pair"><h3>{escape(row["prompt"])}</h3><div>{each}</div></div>'
        pairs.setdefault(other["tag"], []).append(text)
    return "".join(
        folded(
            f"{TASK_NAMES.get(task, task)}: every picture and its verdict",
            f'<p class="soft">Left {fresh.name}, right {reference.name}.</p>'
            f'<div class="pairs judged">{"".join(of)}</div>',
        )
        for task, of in pairs.items()
    )


def _verdict(model: ModelFindings, k: int) -> str:
    row = model.rows[k]
    verdict = "✓ right" if row["correct"] else "✗ " + row["reason"].replace("\n", "; ")
    image = picture(model.scored[k], f"{row['prompt']}: {model.name}, {verdict}")
    return figure(image, verdict, "right" if row["correct"] else "")


def _losses(findings: Findings) -> str:
    history = history_of(findings.metrics)
    charts = "".join(
        f'<div class="chart">{chart}</div>'
        for chart in (inline_chart(draw_loss(history)), inline_chart(draw_times(history)))
    )
    note = (
        "Validation is measured on held-out scenes with fixed noise, at times t = 1/8 … 7/8, with "
        "all text; training drops text encoders and draws its own times, so the two curves differ."
    )
    return section("Loss", note, f'<div class="charts">{charts}</div>')


def _facts(findings: Findings) -> str:
    total = sum(findings.seconds.values())
    stages = [(name, duration(seconds)) for name, seconds in findings.seconds.items()]
    boxes = (
        ("Time", table([], [*stages, ("total", duration(total))])),
        ("Machine", table([], findings.machine.items())),
        ("This run", table([], _pairs(findings.fresh.facts))),
        ("Reference", table([], _pairs(findings.reference.facts))),
    )
    tables = "".join(f"<div><h3>{escape(name)}</h3>{box}</div>" for name, box in boxes)
    rows = (
        f'<tr><th scope="row"><code>{escape(name)}</code></th>'
        f'<td class="{"changed" if changed else ""}">{escape(shown(value))}</td></tr>'
        for name, value, changed in findings.settings
    )
    settings = folded(
        "All settings of the run; coloured ones differ from the recipe scenes-tiny",
        grid(["setting", "value"], "".join(rows)),
    )
    note = "A run that was stopped and resumed adds up the time of all its calls."
    return section("How it was made", note, f'<div class="facts">{tables}</div>{settings}')


def _pairs(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        yield name, shown(value)


def _next(findings: Findings) -> str:
    steps = "".join(
        f"<h3>{escape(what)}</h3><pre>{escape(command)}</pre>"
        for what, command in findings.commands
    )
    return section("What to do next", "Every command explains itself with --help.", steps)
