"""Measure one run of the formulation study: its best step, drawn in the paper's settings.

arXiv:2403.03206, Sec. 5.1 and App. B.3: the checkpoint of least validation loss, Euler with 50
steps at guidance 1, 2.5 and 5 and with 5, 10 and 25 steps at guidance 5, averaged and raw weights;
CLIP score and Frechet distance of CLIP features. Departure: one data set, scenes, where the paper
has two. Prompts and noise are the same for every run and setting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from rectiflow.config import from_dict
from rectiflow.devices import keep_freed_memory, resolve_device
from rectiflow.evaluation.features import Clip, own_clip
from rectiflow.evaluation.frechet import Features as ImageFeatures
from rectiflow.evaluation.frechet import warn_if_few
from rectiflow.evaluation.geneval import Metadata
from rectiflow.evaluation.measures import measure_pictures
from rectiflow.evaluation.prompt_check import picture_seed
from rectiflow.evaluation.reference import Reference, TrueScenes, reference_of
from rectiflow.evaluation.scenes_prompts import load_prompts
from rectiflow.evaluation.suite import Picture, SuiteSettings, evaluate_pictures
from rectiflow.flow.straightness import path_length, relative_decrease
from rectiflow.runs import Run, read_json, write_json
from rectiflow.sampling.images import to_bytes
from rectiflow.sampling.load import pipeline_with
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.sources import Source, encoder_folders, find_source
from rectiflow.scaling.measures import (
    SETTINGS,
    Features,
    Measures,
    Scores,
    Setting,
    write_measures,
)
from rectiflow.training.best import best, metrics_of
from rectiflow.training.checkpoint import Checkpoint

NUM_REFERENCE: Final = 5000
"""True scenes that Frechet distances are taken to."""

SCENES_SETTING: Final = Setting("ema", 50, 5.0)
"""Whose pictures the scenes checker judges."""

PATH_STEPS: Final = 50
"""Of the sampling paths whose length is measured, without guidance, with averaged weights."""

BLOW_UP: Final = 10.0
"""A run whose last validation loss is so many times its least has diverged."""

_GROUPS: Final = {"ema": "ema", "raw": "model"}
_SEED: Final = 0  # of the noise of all runs
_BATCH: Final = 64

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class Questions:
    """What is asked of every run: prompts, noise, and what pictures are held against.

    Args:
        prompts: Metadata, as the scenes suite has it.
        clip: Makes features.
        texts: Features of the prompts.
        reference: Moments of true pictures.
    """

    prompts: Sequence[Mapping[str, Any]]
    clip: Clip
    texts: ImageFeatures
    reference: Reference

    def key(self, step: int) -> dict[str, Any]:
        """What decides the answers of a run, whose weights are those of `step`."""
        return {
            "step": step,
            "num_pictures": len(self.prompts),
            "reference": self.reference.hash,
        }

    @property
    def facts(self) -> Features:
        """What the Frechet distances are taken on."""
        return Features(
            name=self.clip.name,
            width=self.clip.width,
            num_reference=self.reference.moments.num,
            hash=self.reference.hash[:16],
        )


def measure_run(
    folder: Path,
    num_pictures: int,
    device: str = "auto",
    progress: Progress = lambda stage, done, total: None,
) -> Measures:
    """Measure a finished or diverged run into its `measures.json`; goes on where it stopped.

    A run diverged if its training ended in no finite numbers, or with a validation loss `BLOW_UP`
    times its least one; no pictures are drawn from it. A setting whose pictures are not finite
    has no scores.

    Args:
        folder: Of the run, trained with `training.retain.best`.
        num_pictures: In every setting, one a prompt; prompts of the scenes suite, evenly spaced.
        device: Where to draw.
        progress: Told how many of the settings are done.

    Raises:
        FileNotFoundError: If the folder is not a run.
        ValueError: If the run is not finished or keeps no best step, or the prompts do not suffice.
        DataError: If a file is damaged.
    """
    run = Run(folder)
    name = run.config().get("objective", {}).get("formulation")
    kept, why = best(run), _divergence(run)
    if why is None and (run.result() is None or kept is None):
        raise ValueError(
            f"{folder} cannot be measured: train it to its end with training.retain.best=true"
        )
    facts: dict[str, Any] = {
        "formulation": name,
        "seed": run.config()["seed"],
        "num_steps": run.config()["training"]["num_steps"],
        "step": 0 if kept is None else kept.step,
        "diverged": why,
    }
    if kept is not None:
        facts["val_loss_ema"] = metrics_of(kept)["val_loss_ema"]
        facts["velocity_error_ema"] = metrics_of(kept)["velocity_error_ema"]
        if why is None:
            facts |= _drawn(run, kept, num_pictures, device, progress)
    measures = Measures(**facts)
    write_measures(folder, measures)
    return measures


def check_measurable(encoders: Mapping[str, Any], num_pictures: int) -> None:
    """Refuse, before anything is trained, what `measure_run` could not measure afterwards.

    Warns with the numbers where the pictures are too few for the width of the features.

    Args:
        encoders: Of the recipe.
        num_pictures: In every setting.

    Raises:
        ValueError: If the encoders hold no CLIP, or there are not so many prompts.
    """
    _chosen(load_prompts(), num_pictures)
    clip = _clip(Source("bundle", encoder_folders(encoders).text), "cpu")
    warn_if_few(num_pictures, NUM_REFERENCE, clip.width)


def _divergence(run: Run) -> str | None:
    if note := run.diverged():
        return f"step {note['step']}: {note['why'].partition(';')[0]}"
    rows = [row for row in run.metrics() if "val_loss_ema" in row]
    if not rows:
        return None
    least, last = min(rows, key=lambda row: row["val_loss_ema"]), rows[-1]
    if last["val_loss_ema"] <= BLOW_UP * least["val_loss_ema"]:
        return None
    return (
        f"step {last['step']}: the validation loss is {last['val_loss_ema']:.3g}, "
        f"after {least['val_loss_ema']:.3g} at step {least['step']}"
    )


def _drawn(
    run: Run, kept: Checkpoint, num_pictures: int, device: str, progress: Progress
) -> dict[str, Any]:
    """Scores of all settings, and what is told of one of them."""
    place = resolve_device(device)
    if place.type == "cpu":
        keep_freed_memory()
    questions = _questions(run, num_pictures, str(place))
    key, found, lengths = questions.key(kept.step), {}, {}
    for weights, group in _GROUPS.items():
        pipeline = pipeline_with(run, kept.tensors[group], run.checkpoints, place, "auto")
        for setting in (each for each in SETTINGS if each.weights == weights):
            progress("settings", len(found), len(SETTINGS))
            name = f"{setting.weights}-{setting.num_steps}-{setting.guidance_scale:g}"
            draw = partial(_scores, pipeline, questions, setting)
            found[setting] = _once(run, name, key, draw)
        if weights == "ema":
            lengths = _once(run, "paths", key, partial(_lengths, pipeline, questions.prompts))
    progress("settings", len(found), len(SETTINGS))
    scores = [from_dict(Scores, each["scores"]) for each in found.values() if each]
    if not scores:
        return {"diverged": f"step {kept.step}: no setting gives finite pictures"}
    return {
        "settings": tuple(scores),
        "features": questions.facts,
        "scenes": found[SCENES_SETTING].get("scenes"),
        "path_length": {**lengths, **_losses(scores)} or None,
    }


def _questions(run: Run, num_pictures: int, device: str) -> Questions:
    every = load_prompts()
    prompts = _chosen(every, num_pictures)
    clip = _clip(find_source(run.folder), device)
    size_px = run.config()["data"]["size_px"]
    true = TrueScenes(every, NUM_REFERENCE, size_px)
    reference = reference_of(clip, true, run.folder.resolve().parent / "stores")
    texts = clip.text_features([prompt["prompt"] for prompt in prompts])
    return Questions(prompts, clip, texts, reference)


def _chosen(every: Sequence[Metadata], num_pictures: int) -> list[Metadata]:
    """Prompts, evenly spaced."""
    if not 2 <= num_pictures <= len(every):
        raise ValueError(f"pictures must be 2 to {len(every)}, one a prompt, got {num_pictures}")
    return [every[k * len(every) // num_pictures] for k in range(num_pictures)]


def _clip(source: Source, device: str) -> Clip:
    found = own_clip(source, device)
    if found is None:
        raise ValueError(f"the encoders of {source.folder} hold no vision tower to score with")
    return found


def _once(
    run: Run, name: str, key: Mapping[str, Any], find: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """What `find` finds; kept in the run's folder, so that a kill loses one finding at most."""
    file = run.folder / "measured" / f"{name}.json"
    if file.is_file() and (before := read_json(file)).get("key") == key:
        return before["found"]
    found = find()
    write_json(file, {"key": key, "found": found})
    return found


def _scores(pipeline: Pipeline, questions: Questions, setting: Setting) -> dict[str, Any]:
    """Scores in one setting; nothing if its pictures are not finite."""
    pictures = _draw(pipeline, questions.prompts, setting)
    if pictures is None:
        return {}
    features = questions.clip.image_features(pictures)
    measured = measure_pictures(features, questions.texts, questions.reference.moments)
    found: dict[str, Any] = {"scores": {**setting._asdict(), **measured}}
    if setting == SCENES_SETTING:
        found["scenes"] = _scenes_score(pictures, questions.prompts)
    return found


@torch.no_grad()
def _draw(
    pipeline: Pipeline, prompts: Sequence[Mapping[str, Any]], setting: Setting
) -> list[Picture] | None:
    """A picture for every prompt; None if a latent is not finite."""
    options = SamplingOptions(
        num_steps=setting.num_steps, guidance_scale=setting.guidance_scale, solver="euler"
    )
    pictures: list[Picture] = []
    for texts, noise in _batches(pipeline, prompts):
        latents: Tensor = pipeline.solve(texts, noise, options)
        if not bool(latents.isfinite().all()):
            return None
        pictures.extend(to_bytes(pipeline.autoencoder.decode(latents)))
    return pictures


@torch.no_grad()
def _lengths(pipeline: Pipeline, prompts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean length of the sampling paths, and over the distance of their ends (Table 6)."""
    formulation, lengths, ratios = pipeline.formulation, [], []
    times, path = formulation.times(PATH_STEPS), formulation.path
    field = formulation.field(pipeline.network)
    for texts, noise in _batches(pipeline, prompts):
        text = pipeline.text.conditioning(texts).to(pipeline.device)
        noise = noise.to(pipeline.device)
        with torch.autocast(noise.device.type, torch.bfloat16, pipeline.precision == "bf16"):
            found = path_length(
                lambda x, t, c=text: field(x, t, c), path.beginning(noise), times, path=path
            )
        lengths.append(found.length)
        ratios.append(found.length / found.distance)
    means = {"path_length": torch.cat(lengths).mean(), "over_distance": torch.cat(ratios).mean()}
    return {name: float(each) for name, each in means.items() if each.isfinite()}


def _losses(scores: Sequence[Scores]) -> dict[str, float]:
    """What the CLIP score of the averaged weights loses in fewer steps than 50, in per cent."""
    guided = [each for each in scores if each.weights == "ema" and each.guidance_scale == 5]
    clip = {each.num_steps: each.clip for each in guided}
    most = clip.pop(50, 0.0)
    if most <= 0:
        return {}
    return {f"clip_loss_in_{n}_steps": relative_decrease(few, most) for n, few in clip.items()}


def _batches(
    pipeline: Pipeline, prompts: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[list[str], Tensor]]:
    """Texts and noise of the prompts, the same for every run and setting."""
    for start in range(0, len(prompts), _BATCH):
        part = prompts[start : start + _BATCH]
        noise = [pipeline.noise(_SEED, picture_seed(prompt, 0)) for prompt in part]
        yield [prompt["prompt"] for prompt in part], torch.stack(noise)


def _scenes_score(
    pictures: Sequence[Picture], prompts: Sequence[Mapping[str, Any]]
) -> float | None:
    drawn = iter(pictures)
    judged = evaluate_pictures(
        lambda texts, seeds: [next(drawn) for _ in texts], prompts, SuiteSettings(controls=False)
    )
    return judged.summary["overall"]
