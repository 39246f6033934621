"""The scenes suite: prompts, pictures, scores, and the controls that say what a score is worth.

Beside every score stand three controls: what the checker gives pictures that are right by
construction, what it gives them after a round trip through the autoencoder (no model that draws
through that autoencoder can be expected to do better), and what the judged pictures get for
prompts that are not theirs (the score of chance).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rectiflow.data.scenes import render
from rectiflow.evaluation import geneval, layout
from rectiflow.evaluation.checker import DEFAULT, Parsed, Thresholds, parse
from rectiflow.evaluation.geneval import Metadata
from rectiflow.evaluation.kept import KeptPictures, PictureJob
from rectiflow.evaluation.prompt_check import checked
from rectiflow.evaluation.scenes_prompts import ground_truth, load_prompts
from rectiflow.evaluation.scores import summarize
from rectiflow.evaluation.truth import truth_of
from rectiflow.runs import write_bytes

Picture = NDArray[np.uint8]
Draw = Callable[[Sequence[str], Sequence[int]], Sequence[Picture]]
OnPictures = Callable[[Sequence[str], Sequence[Picture]], object]
RoundTrip = Callable[[Sequence[Picture]], Sequence[Picture]]
Progress = Callable[[int, int], None]

BATCH: Final = 64  # pictures asked for at once; a drawer may split them further


@dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """How the suite is run.

    Args:
        images_per_prompt: GenEval's habit is 4; 1 has the same mean and a wider interval.
        size_px: Side of the ground-truth pictures of the controls.
        controls: Whether to compute the controls.
        thresholds: Of the checker.
    """

    images_per_prompt: int = 1
    size_px: int = 64
    controls: bool = True
    thresholds: Thresholds = DEFAULT

    def __post_init__(self) -> None:
        if self.images_per_prompt < 1:
            raise ValueError(f"images_per_prompt must be >= 1, got {self.images_per_prompt}")
        if self.size_px < 32:
            raise ValueError(f"size_px must be >= 32, got {self.size_px}")


@dataclass(frozen=True)
class Evaluation:
    """Scores and the lines they come from.

    Args:
        summary: JSON-ready; `overall` is the mean of GenEval's six tasks on seen prompts.
        rows: One line of results.jsonl per picture.
    """

    summary: dict[str, Any]
    rows: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write results.jsonl and GenEval's summary.txt into a folder."""
        layout.write_lines(folder / layout.RESULTS, self.rows)
        text = geneval.format_summary(self.rows) + "\n"
        write_bytes(folder / "summary.txt", text.encode())


def evaluate_pictures(
    draw: Draw,
    prompts: Sequence[Metadata] | None = None,
    settings: SuiteSettings | None = None,
    *,
    round_trip: RoundTrip | None = None,
    kept: KeptPictures | None = None,
    on_pictures: OnPictures | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Draw a picture for every prompt, judge it, and say what the score is worth.

    Args:
        draw: From prompts and seeds to pictures; picture i depends on prompt i and seed i only.
        prompts: Metadata of the prompts; by default the committed ones.
        settings: Pictures per prompt, size of the controls, thresholds.
        round_trip: Through the autoencoder and back, for that control; None leaves it out.
        kept: Where to keep the pictures, and the results; what is there is not drawn again, and the
            end is that of an evaluation that never stopped. None keeps none.
        on_pictures: Called with the prompts and pictures of each batch, in their order.
        on_progress: Called with the number of pictures done and their total.

    Raises:
        ValueError: If there is no prompt, or one asks for what scenes do not have; or if the folder
            holds pictures of another evaluation.
    """
    settings = settings or SuiteSettings()
    asked_for = load_prompts() if prompts is None else prompts
    chosen = [checked(prompt, i) for i, prompt in enumerate(asked_for)]
    if not chosen:
        raise ValueError("a suite needs at least one prompt, got none")
    num = settings.images_per_prompt
    if kept is not None:
        kept.begin(chosen, num)
    jobs = [PictureJob(i, k, prompt) for i, prompt in enumerate(chosen) for k in range(num)]
    judged: list[_Judged] = []
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        pictures = _pictures(draw, batch, kept)
        if on_pictures:
            on_pictures([job.prompt["prompt"] for job in batch], pictures)
        for job, picture in zip(batch, pictures, strict=True):
            judged.append(_Judged(job.name, job.prompt, parse(picture, settings.thresholds)))
        if on_progress:
            on_progress(len(judged), len(jobs))
    evaluation = _evaluation(judged, settings, round_trip)
    if kept is not None:
        evaluation.write(kept.folder)
    return evaluation


def _pictures(
    draw: Draw, batch: Sequence[PictureJob], kept: KeptPictures | None
) -> Sequence[Picture]:
    """The pictures of a batch; it is drawn whole if one is missing.

    Of other company a picture would be the same but for the rounding of its sums.
    """
    found = [None if kept is None else kept.find(job) for job in batch]
    there = [picture for picture in found if picture is not None]
    if len(there) == len(batch):
        return there
    drawn = draw([job.prompt["prompt"] for job in batch], [job.seed for job in batch])
    if len(drawn) != len(batch):
        raise ValueError(f"draw must return {len(batch)} pictures, got {len(drawn)}")
    if kept is not None:
        for job, old, new in zip(batch, found, drawn, strict=True):
            if old is None:
                kept.write(job, new)
    return [new if old is None else old for old, new in zip(found, drawn, strict=True)]


def evaluate_folder(
    folder: Path,
    settings: SuiteSettings | None = None,
    *,
    round_trip: RoundTrip | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Judge the pictures of a folder in GenEval's layout; arguments as `evaluate_pictures`.

    Raises:
        FileNotFoundError: If there is no such folder or nothing in it.
        DataError: If its metadata or a picture is damaged.
    """
    settings = settings or SuiteSettings()
    found = layout.read_folder(folder)
    total = sum(len(files) for _, files in found)
    judged: list[_Judged] = []
    for i, (metadata, files) in enumerate(found):
        prompt = checked(metadata, i)
        for file in files:
            parsed = parse(layout.read_picture(file), settings.thresholds)
            judged.append(_Judged(file.relative_to(folder).as_posix(), prompt, parsed))
        if on_progress:
            on_progress(len(judged), total)
    return _evaluation(judged, settings, round_trip)


@dataclass(frozen=True)
class _Judged:
    filename: str
    prompt: Metadata
    parsed: Parsed


def _rows(judged: Sequence[_Judged], thresholds: Thresholds) -> list[dict[str, Any]]:
    return [
        geneval.result_row(
            item.filename,
            item.prompt,
            item.parsed,
            geneval.judge(item.parsed, item.prompt),
            checker=thresholds.hash,
        )
        for item in judged
    ]


def _evaluation(
    judged: Sequence[_Judged], settings: SuiteSettings, round_trip: RoundTrip | None
) -> Evaluation:
    rows = _rows(judged, settings.thresholds)
    summary = summarize(rows)
    summary["checker"] = {
        "version": settings.thresholds.version,
        "hash": settings.thresholds.hash,
    }
    if settings.controls:
        summary["controls"] = _controls(judged, settings, round_trip)
    return Evaluation(summary, rows)


def _controls(
    judged: Sequence[_Judged], settings: SuiteSettings, round_trip: RoundTrip | None
) -> dict[str, Any]:
    prompts = list({id(item.prompt): item.prompt for item in judged}.values())
    truth = [render(ground_truth(dict(prompt)), settings.size_px) for prompt in prompts]

    def score(pictures: Sequence[Picture]) -> dict[str, Any]:
        parsed = [parse(picture, settings.thresholds) for picture in pictures]
        items = [_Judged("", p, found) for p, found in zip(prompts, parsed, strict=True)]
        return summarize(_rows(items, settings.thresholds))

    controls = {"ground_truth": score(truth)}
    if round_trip is not None:
        controls["round_trip"] = score(round_trip(truth))
    shuffled = [
        _Judged(item.filename, other, item.parsed)
        for item, other in zip(judged, _other_prompts(judged), strict=True)
        if other is not None
    ]
    controls["shuffled"] = summarize(_rows(shuffled, settings.thresholds))
    return controls


def _other_prompts(judged: Sequence[_Judged]) -> list[Metadata | None]:
    """For every picture, another prompt of its task, which its own ground truth does not show.

    None if the task has none.
    """
    by_task: dict[str, list[Metadata]] = {}
    for item in judged:
        prompts = by_task.setdefault(item.prompt["tag"], [])
        if not prompts or prompts[-1] is not item.prompt:
            prompts.append(item.prompt)
    place = {id(p): (tag, k) for tag, of in by_task.items() for k, p in enumerate(of)}
    others: dict[int, Metadata | None] = {}
    for item in judged:
        if id(item.prompt) in others:
            continue
        tag, k = place[id(item.prompt)]
        shown = truth_of(ground_truth(dict(item.prompt)))
        turned = by_task[tag][k + 1 :] + by_task[tag][:k]
        missed = (other for other in turned if not geneval.judge(shown, other).correct)
        others[id(item.prompt)] = next(missed, None)
    return [others[id(item.prompt)] for item in judged]
