"""Tables of the formulation study: ours beside the paper's Tables 1 and 2, claims, losses."""

from collections.abc import Iterable, Sequence
from typing import Final

from rectiflow.scaling.blocks import Table
from rectiflow.scaling.formulation_results import Findings
from rectiflow.scaling.intervals import estimate, shown
from rectiflow.scaling.measures import Measures, Setting
from rectiflow.scaling.paper_values import CLAIMS, TABLE_1, TABLE_2
from rectiflow.scaling.ranking import agreement, judged
from rectiflow.scaling.resampling import CLIP, FRECHET, Interval

COLUMN_NAMES: Final = {"all": "all settings", "few_steps": "5 steps", "many_steps": "50 steps"}
TABLE_2_SETTING: Final = Setting("ema", 25, 5.0)
ONE_SEED, DIVERGED, LACKING = "†", "‡", "§"
MARKS: Final = {
    ONE_SEED: "one seed only; its intervals are of prompts alone, too narrow beside the others",
    DIVERGED: "diverged, in at least one seed, and is put last in every setting",
    LACKING: "lacks scores in some settings, and is put last in these",
}


def marked(findings: Findings, name: str) -> str:
    """A formulation's name with the marks that its row needs."""
    return " ".join([name, *marks_of(findings, name)])


def marks_of(findings: Findings, name: str) -> list[str]:
    """Which of `MARKS` a formulation has."""
    runs = findings.results.of(name)
    has_diverged = any(run.diverged is not None for run in runs)
    marks = {
        ONE_SEED: len(runs) == 1 and len(findings.results.plan.seeds) > 1,
        DIVERGED: has_diverged,
        LACKING: not has_diverged and bool(findings.scores.missing(name)),
    }
    return [mark for mark, is_set in marks.items() if is_set]


def table_1(findings: Findings) -> Table:
    """Average ranks with intervals, beside the paper's, by our rank over all settings."""
    columns = list(findings.ranks)
    head = (
        "formulation",
        "seeds",
        *(COLUMN_NAMES[column] for column in columns),
        *(f"paper: {COLUMN_NAMES[column]}" for column in columns),
    )
    rows = []
    for name in findings.order:
        paper = TABLE_1.get(name)
        rows.append(
            (
                marked(findings, name),
                str(len(findings.results.of(name))),
                *(with_range(findings.ranks[column][name], 2) for column in columns),
                *(f"{getattr(paper, column):.2f}" if paper else "-" for column in columns),
            )
        )
    return Table(head, tuple(rows))


def table_2(findings: Findings) -> Table:
    """CLIP score and Frechet distance at 25 steps, beside the paper's of two data sets."""
    head = (
        "formulation",
        "CLIP score",
        "Frechet distance",
        "paper, ImageNet: CLIP",
        "FID",
        "paper, CC12M: CLIP",
        "FID",
    )
    rows = []
    for name in findings.order:
        clip, frechet = (
            findings.scores.interval(name, TABLE_2_SETTING, score) for score in (CLIP, FRECHET)
        )
        paper = TABLE_2.get(name)
        there = (
            (
                f"{paper.imagenet_clip:.3f}",
                f"{paper.imagenet_fid:.2f}",
                f"{paper.cc12m_clip:.3f}",
                f"{paper.cc12m_fid:.2f}",
            )
            if paper
            else ("-",) * 4
        )
        ours = (with_range(clip, 3), with_range(frechet, 2))
        rows.append((marked(findings, name), *ours, *there))
    return Table(head, tuple(rows))


def claims_table(findings: Findings) -> Table:
    """Orders that Table 1 shows, and what our ranks say of them."""
    head = ("in Table 1", "column", "ahead", "behind", "paper", "here", "reading")
    rows = []
    for claim in CLAIMS:
        found = judged(claim, findings.ranks)
        names = (claim.better, claim.worse)
        difference = with_range(found, 2, signed=True)
        paper = f"{claim.paper_difference:+.2f}"
        column = COLUMN_NAMES[claim.column]
        rows.append((claim.says, column, *names, paper, difference, verdict(found)))
    return Table(head, tuple(rows))


def verdict(found: Interval | None) -> str:
    """What a difference of ranks says of a claim, no further than its interval goes."""
    if found is None:
        return "not run"
    if found.low > 0:
        return "same order"
    return "opposite order" if found.high < 0 else "not told apart"


def agreement_lines(findings: Findings) -> tuple[str, ...]:
    """Spearman's correlation with Table 1 and the order of pairs, one line a column."""
    lines = []
    for column, ranks in findings.ranks.items():
        found = agreement(ranks, column)
        if found is None:
            lines.append(f"{COLUMN_NAMES[column]}: fewer than three formulations in common.")
            continue
        lines.append(
            f"{COLUMN_NAMES[column]}: Spearman's correlation {with_range(found.spearman, 2)} "
            f"over {found.num} formulations (unrelated orders exceed {found.chance:.2f} either way "
            f"in at most 5 % of cases). Of {found.num_pairs} pairs that the paper orders, "
            f"{found.same_order} have the same order here; {found.told_apart} are told apart by "
            f"intervals here, {found.told_apart_same} of them in the paper's order."
        )
    return tuple(lines)


def losses_table(findings: Findings) -> Table:
    """Losses and lengths of sampling paths: means over seeds, with t intervals."""
    names = findings.order
    runs = [run for name in names for run in findings.results.of(name)]
    lengths = tuple(dict.fromkeys(key for run in runs for key in run.path_length or {}))
    head = (
        "formulation",
        "step sampled",
        "validation loss, own target",
        "velocity error",
        *(length.replace("_", " ") for length in lengths),
        "scenes score",
    )
    rows = []
    for name in names:
        of = findings.results.of(name)
        measured = (
            _mean((run.val_loss_ema for run in of), 4),
            _mean((run.velocity_error_ema for run in of), 4),
            *(_mean(((run.path_length or {}).get(key) for run in of), 3) for key in lengths),
            _mean((run.scenes for run in of), 3),
        )
        rows.append((marked(findings, name), _steps(of), *measured))
    return Table(head, tuple(rows))


def with_range(value: Interval | None, digits: int, signed: bool = False) -> str:
    """A number and its interval as tables write it."""
    if value is None:
        return "-"
    sign = "+" if signed else ""
    number, low, high = (f"{each:{sign}.{digits}f}" for each in value)
    return f"{number} ({low} to {high})"


def _mean(values: Iterable[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    return shown(estimate(known), digits) if known else "-"


def _steps(runs: Sequence[Measures]) -> str:
    return ", ".join("-" if run.diverged is not None else f"{run.step}" for run in runs)
