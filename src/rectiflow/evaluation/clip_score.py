"""CLIP score: how near pictures are to their prompts in the space of a CLIP.

A picture and a prompt become unit vectors; the score is the mean of their products (the cosine
similarity of arXiv:2104.08718, without its factor 2.5 and its cut at 0). SD3 scores with CLIP L/14
(arXiv:2403.03206, App. B.3), one of the encoders that its networks are conditioned on; by default
so are ours, on the second of their text encoders. A score compares networks under the same CLIP, no
others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rectiflow.evaluation.features import Clip, Picture
from rectiflow.evaluation.frechet import Features


def own_cosines(images: Features, texts: Features) -> Float[np.ndarray, " pictures"]:
    """Cosine of every picture with its own prompt, in [-1, 1]."""
    return (_unit(images) * _unit(texts)).sum(1)


def all_cosines(
    images: Features, texts: Float[np.ndarray, "prompts channels"]
) -> Float[np.ndarray, "pictures prompts"]:
    """Cosine of every picture with every prompt, in [-1, 1]."""
    return _unit(images) @ _unit(texts).T


def clip_score(
    clip: Clip,
    images: Features,
    prompts: Sequence[str],
    truth: Sequence[Picture],
    true_prompts: Sequence[str],
) -> dict[str, Any]:
    """The score with its controls, ready for JSON.

    Args:
        clip: Whose features they are.
        images: Features of the pictures.
        prompts: Theirs, one for each.
        truth: Pictures that are right.
        true_prompts: Theirs.

    Returns:
        `mean` over all pictures; `shuffled`: the mean over all pairs of a picture and a prompt of
        other words, the score of chance, None if there is none; `ground_truth`: that of pictures
        which are right.
    """
    texts = text_rows(clip, prompts)
    right = own_cosines(clip.image_features(truth), text_rows(clip, true_prompts))
    return {
        "mean": float(own_cosines(images, texts).mean()),
        "shuffled": _mean_of_others(images, texts, prompts),
        "ground_truth": float(right.mean()),
    }


def text_rows(clip: Clip, prompts: Sequence[str]) -> Features:
    """Text features, one row for each prompt; prompts of the same words are encoded once."""
    distinct = sorted(set(prompts))
    return clip.text_features(distinct)[[distinct.index(prompt) for prompt in prompts]]


def _mean_of_others(images: Features, texts: Features, prompts: Sequence[str]) -> float | None:
    names = np.asarray(prompts)
    is_other = names[:, None] != names[None, :]
    return float(all_cosines(images, texts)[is_other].mean()) if is_other.any() else None


def _unit(features: Features) -> Features:
    values = features.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
