"""Scores: the suite on a model, autoencoders as in the SD3 paper's Table 3, the checker itself."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from rectiflow.bench.figure import Figure
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.startup import peak_memory
from rectiflow.processes import run_rectiflow

MAX_EVALUATE_SECONDS = 360
MIN_SCORES = {"overall": 0.85, "single_object": 0.95, "colors": 0.95, "text": 0.5}
MIN_THROUGH_AUTOENCODER = 0.97
MIN_GROUND_TRUTH = 0.995
MIN_BLURRED, MIN_BLURRED_TEXT = 0.98, 0.95
MAX_ACCEPTED_IN_ERROR, MAX_SWAPS_ACCEPTED = 0.01, 0.005
BLUR_SIGMA = 0.02
SIZES_PX = (64, 128)


def measure_evaluate(settings: BenchSettings) -> dict[str, Figure]:
    """`rectiflow evaluate` with one picture per prompt: how long it takes and what it says.

    Only the packaged bundle's scores are held against bars; those of a run depend on its length.
    """
    fewer = ["--prompts-per-task", "2"] if settings.is_quick else []
    done = run_rectiflow("evaluate", *settings.model(), *fewer, "--json")
    summary = json.loads(done.output)
    figures = {"seconds": Figure(value=done.seconds, unit="s", at_most=MAX_EVALUATE_SECONDS)}
    is_packaged = not settings.model()
    return figures | peak_memory([done]) | score_figures(summary, MIN_SCORES if is_packaged else {})


def score_figures(summary: Mapping[str, Any], bars: Mapping[str, float]) -> dict[str, Figure]:
    """Scores of a summary of the suite and of its controls, those that it has."""
    scores = {name: summary.get(name) for name in ("overall", "strict", "heldout")}
    scores |= summary["tasks"]
    for name, control in summary.get("controls", {}).items():
        scores[f"control {name}"] = control["overall"]
    return {
        name: Figure(value=score, unit="", at_least=bars.get(name))
        for name, score in scores.items()
        if score is not None
    }


def measure_autoencoder(settings: BenchSettings) -> dict[str, Figure]:
    """PSNR, SSIM and the checker's agreement on held-out scenes, for every autoencoder named."""
    from rectiflow.data.scene_records import VALIDATION_SEED
    from rectiflow.data.scenes import make_scene, render
    from rectiflow.encoders.autoencoder import Autoencoder
    from rectiflow.evaluation.agreement import agreement
    from rectiflow.evaluation.reconstruction import reconstruction_quality, round_trip
    from rectiflow.sampling.sources import autoencoder_folder

    num = settings.amount(1024, 32)
    pictures = [render(make_scene(VALIDATION_SEED, index), SIZES_PX[0]) for index in range(num)]
    prompts = _prompts(settings)
    figures = {}
    for name in autoencoder_names(settings):
        autoencoder = Autoencoder.load(autoencoder_folder(name)).eval()
        note = f"{autoencoder.latent_channels} channels"
        quality = reconstruction_quality(autoencoder, pictures)
        figures[f"{name} PSNR"] = Figure(value=quality.psnr_db, unit="dB", note=note)
        figures[f"{name} SSIM"] = Figure(value=quality.ssim, unit="", note=note)
        by_task = agreement(prompts, SIZES_PX[0], partial(round_trip, autoencoder))
        figures[f"{name} agreement"] = lowest_figure(by_task, MIN_THROUGH_AUTOENCODER)
    return figures


def autoencoder_names(settings: BenchSettings) -> tuple[str, ...]:
    """The autoencoders to measure."""
    from rectiflow.sampling.sources import DEFAULT_BUNDLE

    return settings.autoencoders or (DEFAULT_BUNDLE,)


def measure_ceilings(settings: BenchSettings) -> dict[str, Figure]:
    """What the checker accepts of right pictures, and of pictures with prompts not theirs."""
    from rectiflow.evaluation.agreement import (
        accepted_in_error,
        agreement,
        blurred,
        swaps_accepted,
    )

    prompts = _prompts(settings)
    figures = {}
    for size_px in SIZES_PX:
        by_task = agreement(prompts, size_px)
        figures[f"ground truth {size_px} px"] = lowest_figure(by_task, MIN_GROUND_TRUTH)
        by_task = agreement(prompts, size_px, lambda pictures: blurred(pictures, BLUR_SIGMA))
        text = {"text": by_task.pop("text")}
        figures[f"blurred {size_px} px"] = lowest_figure(by_task, MIN_BLURRED)
        figures[f"blurred words {size_px} px"] = lowest_figure(text, MIN_BLURRED_TEXT)
    figures["other prompts"] = highest_figure(accepted_in_error(prompts), MAX_ACCEPTED_IN_ERROR)
    for what, share in swaps_accepted(prompts).items():
        figures[f"swapped {what}"] = Figure(value=share, unit="", at_most=MAX_SWAPS_ACCEPTED)
    return figures


def lowest_figure(by_task: Mapping[str, float], bar: float) -> Figure:
    """The task with the lowest share, which a bar on every task is a bar on."""
    return Figure(value=min(by_task.values()), unit="", at_least=bar, note=_listed(by_task))


def highest_figure(by_task: Mapping[str, float], bar: float) -> Figure:
    """The task with the highest share of errors."""
    return Figure(value=max(by_task.values()), unit="", at_most=bar, note=_listed(by_task))


def _listed(by_task: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {share:.4f}" for task, share in by_task.items())


def _prompts(settings: BenchSettings) -> list[dict[str, Any]]:
    from rectiflow.evaluation.scenes_prompts import load_prompts
    from rectiflow.evaluation.subset import evenly

    prompts = load_prompts()
    return evenly(prompts, 3) if settings.is_quick else prompts
