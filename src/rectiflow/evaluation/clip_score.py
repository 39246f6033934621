"""CLIP score: how near pictures are to their prompts in the space of the encoders' own contrast.

A picture and a prompt become unit vectors, the picture by the vision tower, the prompt by the
second CLIP text encoder, which are the two that training holds against each other; the score is the
mean of their products (the cosine similarity of arXiv:2104.08718, without its factor 2.5 and its
cut at 0). SD3 scores with CLIP L/14 (App. B.3), one of the encoders that its networks are
conditioned on; so are ours on this one. A score compares networks of the same encoders, no others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from rectiflow.data.scenes import render
from rectiflow.encoders.image import FOLDER, ImageEncoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.evaluation.geneval import Metadata
from rectiflow.evaluation.scenes_prompts import ground_truth
from rectiflow.evaluation.suite import Draw, Picture
from rectiflow.runs import Run
from rectiflow.sampling.sources import Source, encoder_folders

CHUNK = 64  # pictures embedded at once


class ClipScorer:
    """Compares pictures with prompts.

    Args:
        text: Text encoders; the second one is read.
        image: The vision tower they were trained against.
    """

    def __init__(self, text: TextEncoders, image: ImageEncoder) -> None:
        self._text, self._image = text.eval(), image.eval()

    @classmethod
    def of(cls, source: Source) -> "ClipScorer | None":
        """That of a bundle's or a run's encoders; None if they came without a vision tower."""
        folder = source.folder
        if source.kind == "run":
            folder = encoder_folders(Run(folder).config().get("encoders", {})).text
        if not (folder / FOLDER).is_dir():
            return None
        return cls(TextEncoders.load(folder), ImageEncoder.load(folder))

    @torch.no_grad()
    def similarities(
        self, pictures: Sequence[Picture], prompts: Sequence[str]
    ) -> Float[np.ndarray, "pictures prompts"]:
        """Cosine of every picture with every prompt, in [-1, 1].

        Pictures of another size than the vision tower's are scaled to it.

        Raises:
            ValueError: If there are no pictures or no prompts.
        """
        if not pictures or not prompts:
            raise ValueError(
                "similarities need pictures and prompts, "
                f"got {len(pictures)} pictures and {len(prompts)} prompts"
            )
        images = [self._image.embed(self._images(part)) for part in _chunks(pictures)]
        distinct = sorted(set(prompts))
        texts = [self._text.encode(part).pooled_g for part in _chunks(distinct)]
        directions = functional.normalize(torch.cat(texts), dim=-1)
        rows = [distinct.index(prompt) for prompt in prompts]
        return (torch.cat(images) @ directions[rows].T).numpy()

    def _images(self, pictures: Sequence[Picture]) -> torch.Tensor:
        side = self._image.size_px
        resized = [_sized(picture, side) for picture in pictures]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 127.5 - 1


class ScoredDraw:
    """Draws as another does, and remembers what it drew for its CLIP score.

    Args:
        draw: From prompts and seeds to pictures, as `evaluate_pictures` takes it.
        scorer: Compares pictures with prompts.
    """

    def __init__(self, draw: Draw, scorer: ClipScorer) -> None:
        self._draw, self._scorer = draw, scorer
        self._pictures: list[Picture] = []
        self._prompts: list[str] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Picture]:
        """What `draw` returns."""
        pictures = self._draw(prompts, seeds)
        self._pictures.extend(pictures)
        self._prompts.extend(prompts)
        return pictures

    def summary(self, prompts: Sequence[Metadata], size_px: int) -> dict[str, Any]:
        """The score with its controls, ready for JSON.

        Args:
            prompts: Of the suite; their true scenes are the control.
            size_px: Side of the true scenes.

        Returns:
            `mean` over all pictures; `shuffled`: the mean over all pairs of a picture and a prompt
            of other words, the score of chance; `ground_truth`: that of pictures which are right.
        """
        drawn = self._scorer.similarities(self._pictures, self._prompts)
        texts = [prompt["prompt"] for prompt in prompts]
        truth = [render(ground_truth(dict(prompt)), size_px) for prompt in prompts]
        return {
            "mean": float(drawn.diagonal().mean()),
            "shuffled": _mean_of_others(drawn, self._prompts),
            "ground_truth": float(self._scorer.similarities(truth, texts).diagonal().mean()),
        }


def _mean_of_others(similarities: NDArray[Any], prompts: Sequence[str]) -> float | None:
    names = np.asarray(prompts)
    is_other = names[:, None] != names[None, :]
    return float(similarities[is_other].mean()) if is_other.any() else None


def _chunks(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[start : start + CHUNK] for start in range(0, len(values), CHUNK)]


def _sized(picture: Picture, side: int) -> NDArray[np.uint8]:
    if picture.shape[:2] == (side, side):
        return picture
    scaled = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(scaled)
