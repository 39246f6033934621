"""Finished runs of a study, read from their folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rectiflow.errors import DataError
from rectiflow.runs import Run, read_json
from rectiflow.scaling.costs import Cost
from rectiflow.scaling.evaluating import SCORES, evaluation
from rectiflow.scaling.runner import CELL, is_finished
from rectiflow.scaling.study import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A number that runs are compared by.

    Args:
        name: Key in `Result.values`.
        label: In tables and figures.
        is_lower_better: Whether less is better.
        digits: Decimals shown.
    """

    name: str
    label: str
    is_lower_better: bool
    digits: int


METRICS: Final = (
    Metric(name="val_loss", label="validation loss", is_lower_better=True, digits=4),
    Metric(name="scenes", label="scenes score", is_lower_better=False, digits=3),
    Metric(name="clip", label="CLIP score", is_lower_better=False, digits=3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One finished run.

    Args:
        variant: Name of what was trained.
        seed: Of the run.
        cost: Parameters, FLOPs and pictures.
        seconds: Of its training.
        values: By name of metric, at the end of the run.
        curve: (pictures seen, validation loss of the averaged weights), oldest first.
        made_on: Torch, system, device and number format, as the run tells.
    """

    variant: str
    seed: int
    cost: Cost
    seconds: float
    values: Mapping[str, float]
    curve: tuple[tuple[int, float], ...]
    made_on: str


def read_results(folder: Path, study: Study) -> list[Result]:
    """All finished runs in a folder, in the order of the study's variants, then of seeds.

    Runs that are not finished are passed over.

    Raises:
        DataError: If a file is damaged, or a run is of no variant of the study.
    """
    order, procedure = list(study.labels), evaluation(study)
    finished = [each for each in folder.glob("*/") if is_finished(Run(each), procedure)]
    found = [read_result(each) for each in finished]
    for result in found:
        if result.variant not in order:
            raise DataError(f"{folder} holds a run of {result.variant!r}, no variant of the study")
    return sorted(found, key=lambda result: (order.index(result.variant), result.seed))


def read_result(folder: Path) -> Result:
    """The finished run in a folder.

    Raises:
        DataError: If a file is damaged.
    """
    run, cell, scores = Run(folder), read_json(folder / CELL), read_json(folder / SCORES)
    result = read_json(run.result_path)
    try:
        return _result(run, cell, scores, result)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{folder} is damaged: {error!r} while it was read") from error


def _result(
    run: Run, cell: Mapping[str, Any], scores: Mapping[str, Any], result: Mapping[str, Any]
) -> Result:
    batch = result["images_seen"] // result["num_steps"]
    rows = [row for row in run.metrics() if row.get("val_loss_ema") is not None]
    curve = tuple((row["step"] * batch, float(row["val_loss_ema"])) for row in rows)
    measured = {
        "val_loss": curve[-1][1],
        "scenes": scores["overall"],
        "clip": (scores.get("clip_score") or {}).get("mean"),
    }
    return Result(
        variant=cell["variant"],
        seed=int(cell["seed"]),
        cost=Cost(
            parameters=cell["parameters"],
            forward_flops=cell["forward_flops"],
            num_steps=result["num_steps"],
            images_seen=result["images_seen"],
        ),
        seconds=float(result["elapsed_seconds"]),
        values={name: float(value) for name, value in measured.items() if value is not None},
        curve=curve,
        made_on=(
            f"torch {result['torch']}, {result['machine']}, "
            f"{result['device']}, {result['precision']}"
        ),
    )
