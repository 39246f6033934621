"""The page of a study: what people wrote, and between marks what its runs say."""

from collections.abc import Sequence
from pathlib import Path

from rectiflow.runs import write_bytes
from rectiflow.scaling.evaluating import figure_of, kept_of, page_of
from rectiflow.scaling.figure import study_figure
from rectiflow.scaling.markdown import with_section
from rectiflow.scaling.results import Result, read_results
from rectiflow.scaling.study import Study
from rectiflow.scaling.tables import (
    by_variant,
    cost_table,
    difference_table,
    reading,
    score_table,
)


def write_page(study: Study, out: Path) -> Path:
    """Write the study's section and figure anew from its finished runs; the rest of the page stays.

    Args:
        study: What is compared.
        out: Folder of pages and of what is kept of finished runs.

    Raises:
        DataError: If a run or the page is damaged.
    """
    page, figure = page_of(study, out), figure_of(study, out)
    results = read_results(kept_of(study, out), study)
    if results:
        write_bytes(figure, study_figure(by_variant(results), study).encode())
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# {study.name.capitalize()}\n"
    link = figure.relative_to(page.parent).as_posix()
    write_bytes(page, with_section(text, study.part, section(study, results, link)).encode())
    return page


def section(study: Study, results: Sequence[Result], figure: str) -> str:
    """The section of one study, in Markdown.

    Args:
        study: What is compared.
        results: Its finished runs, a variant's together.
        figure: Path of the figure from the page.
    """
    groups = by_variant(results)
    parts = [f"## {study.title}", *study.notes, _progress(study, results)]
    if results:
        parts += [
            f"![{study.title}: validation loss over pictures seen, and scores]({figure})",
            cost_table(groups, study),
            "At the end of training, mean over seeds ± 95 % t interval:",
            score_table(groups, study),
        ]
    if any(name != study.reference for name in groups) and study.reference in groups:
        parts += [
            f"Difference to {study.labels[study.reference]}, paired by seed, bold where the "
            "interval excludes 0:",
            difference_table(groups, study),
            "\n".join(f"- {line}" for line in reading(groups, study)),
        ]
    if results:
        made_on = sorted({result.made_on for result in results})
        parts.append("Made on: " + "; ".join(made_on) + ".")
    return "\n\n".join(parts)


def _progress(study: Study, results: Sequence[Result]) -> str:
    """How much of the study is there, and what is missing."""
    done = {(result.variant, result.seed) for result in results}
    cells = study.cells()
    missing = [cell.name for cell in cells if (cell.variant, cell.seed) not in done]
    if not missing:
        return f"All {len(cells)} runs are there."
    return (
        f"**Partial: {len(cells) - len(missing)} of {len(cells)} runs are there.** "
        f"Missing: {', '.join(missing)}."
    )
