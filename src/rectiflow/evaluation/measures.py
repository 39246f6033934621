"""CLIP score and Frechet distance of drawn pictures, with what they are worth."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from rectiflow.evaluation.bootstrap import bootstrap_means, resampled
from rectiflow.evaluation.clip_score import clip_score, own_cosines
from rectiflow.evaluation.features import Clip, Picture, chunks
from rectiflow.evaluation.frechet import (
    Features,
    Moments,
    bootstrap_frechet,
    frechet_distance,
    stream_moments,
)
from rectiflow.evaluation.geneval import Metadata
from rectiflow.evaluation.reference import TrueScenes, reference_of

NUM_REPLICATES: Final = 100


class RememberedPictures:
    """Keeps what `evaluate_pictures` tells it of.

    Attributes:
        pictures: All so far.
        prompts: Theirs.
    """

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.prompts: list[str] = []

    def __call__(self, prompts: Sequence[str], pictures: Sequence[Picture]) -> None:
        """Pictures and the prompt of each."""
        self.pictures.extend(pictures)
        self.prompts.extend(prompts)


def clip_measures(
    clip: Clip,
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    asked: Sequence[Metadata],
    size_px: int,
    *,
    num_reference: int | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """What a CLIP says of drawn pictures, beside what it says of true scenes; ready for JSON.

    Args:
        clip: Makes the features.
        pictures: The drawn ones.
        prompts: Theirs, one for each.
        asked: The prompts' metadata, whose true scenes are the controls and the reference.
        size_px: Side of the true scenes.
        num_reference: True scenes to take the Frechet distance to; None takes none.
        cache: Where moments of the reference are kept.
        on_progress: Called with the number of true scenes done and their total.

    Returns:
        `features`: name, width and hash of the CLIP; `clip_score`, see `clip_score`; `frechet`:
        `distance`, `ground_truth` (that of as many true scenes, which no model can be expected to
        undercut), and the numbers of pictures on both sides.
    """
    truth = TrueScenes(asked, len(asked), size_px)
    images = clip.image_features(pictures)
    score = clip_score(clip, images, prompts, list(truth), [each["prompt"] for each in asked])
    measured: dict[str, Any] = {
        "features": {"name": clip.name, "width": clip.width, "hash": clip.identity()},
        "clip_score": score,
    }
    if num_reference is not None:
        scenes = TrueScenes(asked, num_reference, size_px)
        reference = reference_of(clip, scenes, cache, on_progress)
        others = TrueScenes(asked, len(pictures), size_px, first=num_reference)
        sides = (
            Moments.of(images),
            stream_moments(clip.image_features(part) for part in chunks(others)),
        )
        distance, floor = [frechet_distance(side, reference.moments) for side in sides]
        measured["frechet"] = {
            "distance": distance,
            "ground_truth": floor,
            "num_pictures": len(pictures),
            "num_reference": num_reference,
            "reference_hash": reference.hash,
        }
    return measured


def measure_pictures(
    images: Features,
    texts: Float[np.ndarray, "prompts channels"],
    reference: Moments,
    *,
    prompt_of_picture: Sequence[int] | None = None,
    num_replicates: int = NUM_REPLICATES,
) -> dict[str, Any]:
    """The two measures of arXiv:2403.03206, App. B.3, five significant digits, ready for JSON.

    Args:
        images: Features of the pictures, not normalised.
        texts: Those of each picture's own prompt.
        reference: Moments of the features of true pictures.
        prompt_of_picture: Number of each picture's prompt; by default each has one of its own.
        num_replicates: Of the bootstrap over prompts; replicate b holds the same prompts in every
            call, so that replicates of two models pair.

    Returns:
        `num_pictures`, `clip`, `frechet`, and under `bootstrap` a list of each.

    Raises:
        ValueError: If pictures and prompts are not as many, or there are less than 2.
    """
    if len(images) != len(texts):
        raise ValueError(f"each picture needs its prompt, got {len(images)} and {len(texts)}")
    cosines = own_cosines(images, texts)
    prompts = range(len(images)) if prompt_of_picture is None else prompt_of_picture
    counts = resampled(prompts, num_replicates)
    return {
        "num_pictures": len(images),
        "clip": _short(cosines.mean()),
        "frechet": _short(frechet_distance(Moments.of(images), reference)),
        "bootstrap": {
            "clip": [_short(value) for value in bootstrap_means(cosines, counts)],
            "frechet": [_short(value) for value in bootstrap_frechet(images, reference, counts)],
        },
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
