"""The report of the formulation study, from a folder of runs: Markdown, HTML, JSON and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rectiflow.runs import write_bytes, write_json
from rectiflow.scaling.blocks import Bullets, Chart, Part, Text, to_html, to_markdown
from rectiflow.scaling.formulation_figures import GROUPS, MAX_CURVES, drawn_figures
from rectiflow.scaling.formulation_results import (
    Findings,
    Results,
    findings_of,
    read_formulations,
)
from rectiflow.scaling.formulation_summary import summary
from rectiflow.scaling.formulation_tables import (
    MARKS,
    TABLE_2_SETTING,
    agreement_lines,
    claims_table,
    losses_table,
    marks_of,
    table_1,
    table_2,
)
from rectiflow.scaling.markdown import with_section

TITLE: Final = "Formulations"
SECTION: Final = "results"
"""Name of the marks on the page that the generated part stands between."""


def write_report(folder: Path) -> Path:
    """Write `report.md`, `report.html`, `report.json` and figures into a study's folder.

    A page beside the folder that has its name, as `studies/formulations.md` beside
    `studies/formulations/`, gets the report as a section between marks; what people wrote around it
    stays.

    Returns:
        The HTML page.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If a file of a run, or the page, is damaged.
        ValueError: If the runs cannot be compared.
    """
    results = read_formulations(folder)
    findings = findings_of(results)
    drawn = drawn_figures(findings) if findings else {}
    for name, figure in drawn.items():
        write_bytes(folder / f"{name}.svg", figure.svg)
        write_bytes(folder / f"{name}.png", figure.png)
    parts = report_parts(results, findings)
    body = to_markdown(parts, 2, "{}.png".format)
    write_bytes(folder / "report.md", f"# {TITLE}\n\n{_lead(results)}\n\n{body}\n".encode())
    write_json(folder / "report.json", summary(results, findings))
    charts = {name: figure.inline for name, figure in drawn.items()}
    html = folder / "report.html"
    write_bytes(html, to_html(TITLE, _lead(results), parts, charts).encode())
    page = page_of(folder)
    if page.is_file():
        text = with_report(page.read_text(encoding="utf-8"), page.stem, parts)
        write_bytes(page, text.encode())
    return html


def page_of(folder: Path) -> Path:
    """The page that a study's folder belongs to, whether it is there or not."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}.md")


def with_report(text: str, folder: str, parts: Sequence[Part]) -> str:
    """A page's text with the report between its marks.

    Args:
        text: Of the page.
        folder: Path of the figures' folder from the page.
        parts: The report.
    """
    return with_section(text, SECTION, to_markdown(parts, 2, lambda name: f"{folder}/{name}.svg"))


def report_parts(results: Results, findings: Findings | None) -> tuple[Part, ...]:
    """The report, in the order of reading; without scores only what is there of it."""
    if findings is None:
        return (_state(results, None),)
    return (
        _state(results, findings),
        _ranks_part(findings),
        Part(
            "Orders that Table 1 shows",
            (
                Text(
                    "By how much the average rank of the formulation behind is higher than that of "
                    "the one ahead: in the paper, and here with 95 % interval. An interval on both "
                    "sides of 0 tells nothing apart."
                ),
                claims_table(findings),
            ),
        ),
        _scores_part(findings),
        _steps_part(),
        _losses_part(findings),
        _facts_part(findings),
    )


def _lead(results: Results) -> str:
    return (
        "Formulations of Sec. 5.1 of the SD3 paper (arXiv:2403.03206), trained and sampled alike "
        f"but for the formulation: {len(results.runs)} of {len(results.plan.runs)} runs."
    )


def _state(results: Results, findings: Findings | None) -> Part:
    """How much of the study is there, and what went wrong."""
    num, planned, missing = len(results.runs), len(results.plan.runs), results.missing
    blocks: list[Text | Bullets] = [Text(f"All {planned} runs are there.")]
    if missing:
        blocks = [
            Text(f"Partial: {num} of {planned} runs are there.", is_bold=True),
            Bullets(
                tuple(
                    f"Missing with seed {seed}: "
                    + ", ".join(name for name, of in missing if of == seed)
                    for seed in dict.fromkeys(seed for _, seed in missing)
                )
            ),
        ]
    if results.diverged:
        lines = (
            f"{run.formulation}, seed {run.seed}: diverged. {run.diverged}"
            for run in results.diverged
        )
        blocks.append(Bullets(tuple(lines)))
    if findings is None:
        blocks.append(Text("No run has scores yet."))
    for name, settings in (findings.incomplete() if findings else {}).items():
        if all(run.diverged is None for run in results.of(name)):
            blocks.append(Text(f"{name} has no scores in: {'; '.join(map(str, settings))}."))
    return Part("What is there", tuple(blocks))


def _ranks_part(findings: Findings) -> Part:
    num = len(findings.order)
    notes = (
        "In every control setting formulations are sorted into fronts by CLIP score (more is "
        "better) and Frechet distance (less is better), those of a front tie, and fronts are "
        f"averaged: over all {len(findings.scores.settings)} settings, over those of 5 steps, over "
        f"those of 50 steps at guidance scale 5. Ranks here are among {num}, those of the paper "
        "among 61 and over two data sets: orders compare, sizes do not. In brackets 95 % of draws "
        "of prompts and, where there are several, of seeds; two seeds show about half of the "
        "variance between seeds."
    )
    used = {mark for name in findings.order for mark in marks_of(findings, name)}
    marks = tuple(f"{mark} {says}." for mark, says in MARKS.items() if mark in used)
    return Part(
        "Table 1: average ranks",
        (
            Text(notes),
            table_1(findings),
            *([Bullets(marks)] if marks else []),
            Chart("ranks", "Average ranks with intervals, beside the paper's"),
            Text(
                "How far this is the paper's order. Draws carry noise on top of that of the "
                "measured ranks, so they correlate less: an interval may end below its value."
            ),
            Bullets(agreement_lines(findings)),
        ),
    )


def _scores_part(findings: Findings) -> Part:
    note = (
        f"{TABLE_2_SETTING.num_steps} steps of Euler at guidance scale "
        f"{TABLE_2_SETTING.guidance_scale:g}, averaged weights, mean over seeds. Pictures, prompts "
        "and encoders are others than the paper's, so only orders compare."
    )
    return Part("Table 2: scores at 25 steps", (Text(note), table_2(findings)))


def _steps_part() -> Part:
    note = (
        f"Guidance scale 5, averaged weights, one panel for each of {', '.join(GROUPS)}, at most "
        f"{MAX_CURVES} formulations in each, the best ranked. Points are moved a little to the "
        "right of one another."
    )
    chart = Chart("steps", "Frechet distance and CLIP score over the steps of sampling")
    return Part("Fig. 3: scores over steps", (Text(note), chart))


def _losses_part(findings: Findings) -> Part:
    note = (
        "Validation losses under their own targets do not compare between formulations; the error "
        "of the implied velocity on rectified flow's scale does. Averaged weights of the step of "
        "least validation loss; mean over seeds ± 95 % t interval."
    )
    chart = Chart("velocity_error", "Error of the velocity of every run, and the mean over seeds")
    return Part("Losses and paths", (Text(note), losses_table(findings), chart))


def _facts_part(findings: Findings) -> Part:
    scored = [run for run in findings.results.runs if run.settings]
    features = scored[0].features
    assert features is not None  # Measures holds them wherever it holds scores
    pictures = sorted({each.num_pictures for run in scored for each in run.settings})
    steps = sorted({run.num_steps for run in findings.results.runs})
    lines = [
        f"Features of the Frechet distance: {features.name}, {features.width} wide, reference of "
        f"{features.num_reference} pictures, statistics {features.hash}.",
        f"Pictures in every setting: {_listed(pictures)}; steps of training: {_listed(steps)}; "
        f"replicates of the prompts: {scored[0].num_replicates}.",
    ]
    if findings.results.made_on:
        lines.append("Made on: " + "; ".join(findings.results.made_on) + ".")
    blocks: list[Text | Bullets] = [Bullets(tuple(lines))]
    if pictures[0] <= features.width:
        warning = (
            f"Too few pictures: {features.width} features need more than {features.width}, here "
            f"are {pictures[0]}. Frechet distances are biased upwards and say little."
        )
        blocks.append(Text(warning, is_bold=True))
    return Part("How it was measured", tuple(blocks))


def _listed(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)
