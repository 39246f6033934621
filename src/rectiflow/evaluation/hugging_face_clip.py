"""CLIP models in transformers' folders, such as the CLIP L/14 that the SD3 paper scores with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from rectiflow.encoders.folders import (
    content_hash,
    load_pretrained,
    load_tokenizer,
    model_facts,
    tokenizer_facts,
)
from rectiflow.encoders.truncation import warn_about_cuts
from rectiflow.errors import DataError
from rectiflow.evaluation.features import Clip, Picture, chunks, own_clip, stacked
from rectiflow.evaluation.frechet import Features
from rectiflow.runs import read_json
from rectiflow.sampling.sources import find_source


def find_clip(name_or_path: str, device: str = "cpu") -> Clip:
    """A CLIP by the name of a bundle, or in the folder of a bundle, a run or transformers.

    Raises:
        FileNotFoundError: If there is nothing of that name, or no CLIP in it.
        ValueError: If it is a model of another kind.
        DataError: If a file is damaged.
    """
    config = Path(name_or_path) / "config.json"
    if config.is_file() and "model_type" in read_json(config):
        return HuggingFaceClip.load(config.parent, device)
    source = find_source(name_or_path)
    found = own_clip(source, device)
    if found is None:
        raise FileNotFoundError(
            f"{source.folder} holds no CLIP: its encoders came without a vision tower"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a picture to what a vision tower takes, as transformers' CLIP preprocessor does it.

    Args:
        size_px: Length that the shorter side is scaled to.
        crop_px: Height and width of what is cut from the middle.
        filter: Pillow's number of the filter; 3 is bicubic.
        scale: Factor on bytes.
        mean: Subtracted from each channel.
        std: Divides each channel.
    """

    size_px: int
    crop_px: tuple[int, int]
    filter: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, folder: Path) -> "Preprocessing":
        """The numbers of a model's folder.

        Raises:
            FileNotFoundError: If it has no settings of a preprocessor.
            DataError: If they are damaged, or ask for what CLIP's does not do.
        """
        file, facts = _preprocessor_facts(folder)
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        if left_out := [step for step in steps if facts.get(step, True) is not True]:
            raise DataError(f"{file} is of no CLIP: it leaves out {left_out[0]}")
        try:
            size, crop = facts["size"], facts["crop_size"]
            found = cls(
                size_px=int(size["shortest_edge"] if isinstance(size, Mapping) else size),
                crop_px=(int(crop["height"]), int(crop["width"]))
                if isinstance(crop, Mapping)
                else (int(crop), int(crop)),
                filter=Image.Resampling(facts.get("resample", 3)),
                scale=float(facts.get("rescale_factor", 1 / 255)),
                mean=_three(facts["image_mean"]),
                std=_three(facts["image_std"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} does not say how pictures are prepared: {error!r}") from error
        if max(found.crop_px) > found.size_px or min(found.crop_px) < 1 or min(found.std) <= 0:
            raise DataError(f"{file} cuts {found.crop_px} px from {found.size_px}, std {found.std}")
        return found

    def __call__(self, picture: Picture) -> Float[np.ndarray, "3 rows columns"]:
        """Scaled, cut and normalised."""
        height, width = picture.shape[:2]
        short = min(height, width)
        sides = (self.size_px * width // short, self.size_px * height // short)
        scaled = np.asarray(Image.fromarray(picture).resize(sides, self.filter))
        top, left = ((scaled.shape[i] - self.crop_px[i]) // 2 for i in (0, 1))
        cut = scaled[top : top + self.crop_px[0], left : left + self.crop_px[1]]
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        normal = (cut * np.float32(self.scale) - mean) / std
        return normal.transpose(2, 0, 1)


class HuggingFaceClip:
    """A CLIP of transformers with its own tokenizer and preprocessing.

    Args:
        model: Both towers.
        tokenizer: Of its prompts; longer ones are cut, with a warning.
        preprocessing: Of its pictures.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocessing: Preprocessing
    ) -> None:
        self._model: Any = model.eval()
        self._tokenizer: Any = tokenizer
        self._preprocessing = preprocessing
        vision = self._model.config.vision_config
        self.width: int = self._model.config.projection_dim
        self.name = (
            f"CLIP, {vision.num_hidden_layers} layers {vision.hidden_size} wide, "
            f"patches of {vision.patch_size} px, pictures of {vision.image_size} px"
        )

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "HuggingFaceClip":
        """Read a local folder: `model.safetensors`, tokenizer, preprocessor; float32.

        Raises:
            FileNotFoundError: If a file is missing; nothing is fetched.
            ValueError: If it is a model of another kind.
            DataError: If a file is damaged.
        """
        config = folder / "config.json"
        if not config.is_file():
            raise FileNotFoundError(f"{folder} is no model folder: it has no config.json")
        if (kind := read_json(config).get("model_type")) != "clip":
            raise ValueError(f"{folder} must be a model of transformers' kind 'clip', got {kind!r}")
        if not any(folder.glob("model*.safetensors")):
            raise FileNotFoundError(
                f"{folder} holds no model.safetensors; pickled weights are not read"
            )
        preprocessing = Preprocessing.read(folder)
        tokenizer = load_tokenizer(CLIPTokenizer, folder)
        model = load_pretrained(CLIPModel, folder, dtype=torch.float32)
        side = model.config.vision_config.image_size
        if preprocessing.crop_px != (side, side):
            raise DataError(
                f"{folder}: the preprocessor makes pictures of {preprocessing.crop_px} px, "
                f"the model takes {side}"
            )
        return cls(model.to(device), tokenizer, preprocessing)

    @torch.no_grad()
    def image_features(self, pictures: Sequence[Picture]) -> Features:
        """Projected, not normalised."""
        rows = []
        for part in chunks(pictures):
            images = torch.from_numpy(np.stack([self._preprocessing(each) for each in part]))
            states = self._model.vision_model(pixel_values=images.to(self._model.device))
            rows.append(self._model.visual_projection(states.pooler_output).cpu())
        return stacked(rows, self.width)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Features:
        """Projected end of text, not normalised."""
        limit = self._model.config.text_config.max_position_embeddings
        rows = []
        for part in chunks(prompts):
            warn_about_cuts(part, {"clip": (self._tokenizer, limit)})
            tokens = self._tokenizer(
                part, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(self._model.device)
            states = self._model.text_model(**tokens)
            rows.append(self._model.text_projection(states.pooler_output).cpu())
        return stacked(rows, self.width)

    def identity(self) -> str:
        """SHA-256 over model, tokenizer and preprocessing."""
        settings = {
            "model": model_facts(self._model.config.to_dict()),
            "tokenizer": tokenizer_facts(self._tokenizer),
            "preprocessing": asdict(self._preprocessing),
        }
        return content_hash(settings, self._model.state_dict())


def _preprocessor_facts(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    own, joint = folder / "preprocessor_config.json", folder / "processor_config.json"
    if own.is_file():
        return own, read_json(own)
    if joint.is_file() and isinstance(facts := read_json(joint).get("image_processor"), Mapping):
        return joint, facts
    raise FileNotFoundError(f"{folder} has no {own.name}, which says how pictures are prepared")


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
