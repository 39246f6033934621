"""Features of pictures and prompts from a CLIP: ours on scenes, or another's from a local folder.

Features are projected into the space that CLIP compares pictures and prompts in, and not
normalised, as the Frechet distances of the SD3 paper take them (arXiv:2403.03206, App. B.3, there
of CLIP L/14, 768 wide). Unstated in the paper: that they are not normalised; its distances of 45
and more say it, as features of length 1 cannot be further apart than 4.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from rectiflow.encoders.folders import content_hash
from rectiflow.encoders.image import FOLDER, ImageEncoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.evaluation.frechet import Features
from rectiflow.runs import Run
from rectiflow.sampling.sources import Source, encoder_folders

Picture = UInt8[np.ndarray, "_ _ 3"]  # of any size

CHUNK: Final = 64
"""Pictures or prompts embedded at once."""


@runtime_checkable
class Clip(Protocol):
    """Two towers whose features compare pictures with prompts.

    Attributes:
        name: What it is, for reports; no place on a machine.
        width: Number of features.
    """

    name: str
    width: int

    def image_features(self, pictures: Sequence[Picture]) -> Features:
        """Of sRGB pictures of any size, one row for each, float32."""
        ...

    def text_features(self, prompts: Sequence[str]) -> Features:
        """Of prompts, one row for each, float32."""
        ...

    def identity(self) -> str:
        """SHA-256 over all that decides the features: weights, settings, preprocessing."""
        ...


class ScenesClip:
    """The second CLIP text encoder of a bundle or run and the vision tower trained against it.

    The features are 96 wide in the packaged bundle. Pictures are scaled to the tower's side.

    Args:
        text: Text encoders; the second one is read.
        image: The vision tower.
    """

    name = "rectiflow's own CLIP"

    def __init__(self, text: TextEncoders, image: ImageEncoder) -> None:
        self._text, self._image = text.eval(), image.eval()
        config: Any = image.network.config
        self.width: int = config.projection_dim

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "ScenesClip":
        """Read the encoders of a bundle or of a run's export.

        Raises:
            FileNotFoundError: If they came without a vision tower, or there are none.
            DataError: If a file is damaged.
        """
        if not (folder / FOLDER).is_dir():
            raise FileNotFoundError(f"{folder} holds no {FOLDER}/, the vision tower of a CLIP")
        text, image = TextEncoders.load(folder), ImageEncoder.load(folder)
        return cls(text.to(device), image.to(device))

    @torch.no_grad()
    def image_features(self, pictures: Sequence[Picture]) -> Features:
        """Projected, not normalised."""
        side, device = self._image.size_px, self._text.device
        rows = []
        for part in chunks(pictures):
            images = torch.from_numpy(np.stack([_squashed(each, side) for each in part]))
            rows.append(self._image(images.to(device).permute(0, 3, 1, 2) / 127.5 - 1).cpu())
        return stacked(rows, self.width)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Features:
        """Projected end of text, not normalised."""
        rows = [self._text.encode(part).pooled_g.cpu() for part in chunks(prompts)]
        return stacked(rows, self.width)

    def identity(self) -> str:
        """SHA-256 over both towers."""
        towers = {"text": self._text.identity(), "image": self._image.identity()}
        return content_hash({**towers, "pictures": "bicubic to the side of the tower"}, {})


def own_clip(source: Source, device: str = "cpu") -> ScenesClip | None:
    """The CLIP of a bundle's or a run's encoders; None if they came without a vision tower."""
    folder = source.folder
    if source.kind == "run":
        folder = encoder_folders(Run(folder).config().get("encoders", {})).text
    return ScenesClip.load(folder, device) if (folder / FOLDER).is_dir() else None


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """`CHUNK` values at a time."""
    iterator = iter(values)
    while part := list(islice(iterator, CHUNK)):
        yield part


def stacked(rows: Sequence[torch.Tensor], width: int) -> Features:
    """Rows of all chunks as one array; none of no chunk."""
    return torch.cat(list(rows)).numpy() if rows else np.zeros((0, width), np.float32)


def _squashed(picture: Picture, side: int) -> UInt8[np.ndarray, "side side 3"]:
    if picture.shape[:2] == (side, side):
        return picture
    scaled = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(scaled)
