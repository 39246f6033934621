"""The formulation study for programs: what `report.json` holds."""

from typing import Any

from rectiflow.scaling.formulation_results import Findings, Results
from rectiflow.scaling.paper_values import CLAIMS, TABLE_1
from rectiflow.scaling.ranking import agreement, judged
from rectiflow.scaling.resampling import CLIP, FRECHET, Interval


def summary(results: Results, findings: Findings | None) -> dict[str, Any]:
    """The report for programs."""
    found: dict[str, Any] = {
        "num_runs": len(results.runs),
        "num_planned": len(results.plan.runs),
        "missing": [{"formulation": name, "seed": seed} for name, seed in results.missing],
        "diverged": [
            {"formulation": run.formulation, "seed": run.seed, "why": run.diverged}
            for run in results.diverged
        ],
    }
    if findings is None:
        return found
    agreements = {column: agreement(of, column) for column, of in findings.ranks.items()}
    return found | {
        "formulations": [_row(findings, name) for name in findings.order],
        "agreement": {
            column: {**_named(each, "spearman"), "spearman": _range(each.spearman)}
            for column, each in agreements.items()
            if each is not None
        },
        "orders": [
            {
                **_named(claim),
                "paper_difference": round(claim.paper_difference, 2),
                "difference": _range(judged(claim, findings.ranks)),
            }
            for claim in CLAIMS
        ],
    }


def _row(findings: Findings, name: str) -> dict[str, Any]:
    runs, paper = findings.results.of(name), TABLE_1.get(name)
    return {
        "name": name,
        "seeds": [run.seed for run in runs],
        "ranks": {column: _range(of[name]) for column, of in findings.ranks.items()},
        "paper_ranks": paper._asdict() if paper else None,
        "last_for_want_of_scores": [str(each) for each in findings.scores.missing(name)],
        "scores": [
            {**setting._asdict(), "clip": clip, "frechet": frechet}
            for setting in findings.scores.settings
            if (clip := _range(findings.scores.interval(name, setting, CLIP)))
            and (frechet := _range(findings.scores.interval(name, setting, FRECHET)))
        ],
        "runs": [
            {
                "seed": run.seed,
                "step": run.step,
                "val_loss_ema": run.val_loss_ema,
                "velocity_error_ema": run.velocity_error_ema,
                "path_length": run.path_length,
                "scenes": run.scenes,
            }
            for run in runs
        ],
    }


def _range(value: Interval | None) -> dict[str, float] | None:
    return None if value is None else {k: float(f"{v:.5g}") for k, v in value._asdict().items()}


def _named(value: Any, *without: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__ if name not in without}
