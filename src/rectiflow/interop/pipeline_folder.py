"""What lies beside the network in a diffusers pipeline folder: text, autoencoder, scheduler."""

import math
import shutil
from collections.abc import Collection, Mapping
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectiflow.encoders.folders import save_pretrained
from rectiflow.encoders.released.autoencoder import released_autoencoder
from rectiflow.encoders.released.models import stored_text_model
from rectiflow.errors import DataError
from rectiflow.interop.checkpoint import Checkpoint
from rectiflow.interop.settings import DIFFUSERS_CLASS
from rectiflow.interop.tensor_file import TensorFile
from rectiflow.runs import read_json, write_json

INDEX = "model_index.json"
SCHEDULER_CLASS = "FlowMatchEulerDiscreteScheduler"
# Names that both the 4th and the 5th line of transformers know; those folders may hold nothing but
# tokenizer.json, which the plain names of the 4th line cannot read.
_CLASSES = {
    "transformer": ("diffusers", DIFFUSERS_CLASS),
    "scheduler": ("diffusers", SCHEDULER_CLASS),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizerFast"),
    "tokenizer_2": ("transformers", "CLIPTokenizerFast"),
    "tokenizer_3": ("transformers", "T5TokenizerFast"),
}
ENCODER_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZER_PARTS = ("tokenizer", "tokenizer_2", "tokenizer_3")
PARTS = ("vae", *ENCODER_PARTS, *TOKENIZER_PARTS)
"""Folders of a pipeline beside the network and its scheduler."""

INSIDE = {
    "vae": "vae",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5xxl": "text_encoder_3",
}
"""Parts of an original single file, and the folders they become."""

RELEASED_SHIFT = 3.0
"""Of the schedulers of all releases (their `scheduler_config.json`)."""

_COPIED = (".json", ".txt", ".model", ".safetensors")
"""Endings of the files that are copied: settings, vocabularies and weights, no pickles, no code."""


def parts_beside(source: Checkpoint) -> list[str]:
    """The parts that lie as folders beside the network."""
    return [name for name in PARTS if source.folder and (source.folder / name).is_dir()]


def shift_of(source: Checkpoint) -> float:
    """The shift that a model is sampled with, > 0.

    That of the scheduler beside it, else its recipe's, else 1 for a model of ours and that of the
    releases for any other.

    Raises:
        DataError: If the scheduler's is no positive number.
    """
    scheduler = source.folder and source.folder / "scheduler" / "scheduler_config.json"
    if scheduler and scheduler.is_file():
        shift = read_json(scheduler).get("shift", RELEASED_SHIFT)
        if type(shift) not in (int, float) or not 0 < shift < math.inf:
            raise DataError(f"{scheduler}: shift must be a number > 0, got {shift!r}")
        return float(shift)
    recipe = source.facts.get("recipe")
    sampling = recipe.get("sampling", {}) if isinstance(recipe, Mapping) else {}
    shift = sampling.get("shift") if isinstance(sampling, Mapping) else None
    if isinstance(shift, int | float):
        return float(shift)
    return 1.0 if recipe or source.layout == "rectiflow" else RELEASED_SHIFT


def write_scheduler(source: Checkpoint, target: Path) -> None:
    """Write scheduler/: that of the source if it has one, else Euler steps on its shifted grid."""
    own = source.folder / "scheduler" if source.folder else None
    if own is not None and own.is_dir():
        shutil.copytree(own, target / "scheduler", ignore=_others)
        return
    settings = {
        "_class_name": SCHEDULER_CLASS,
        "_diffusers_version": version("diffusers"),
        "num_train_timesteps": 1000,
        "shift": shift_of(source),
    }
    write_json(target / "scheduler" / "scheduler_config.json", settings)


def check_parts(source: Checkpoint) -> None:
    """Refuse folders beside the network that cannot be copied whole.

    Raises:
        DataError: If one has no weights in safetensors, or a file of them was cut or damaged.
    """
    for name in parts_beside(source):
        assert source.folder is not None  # there are parts beside it
        files = sorted((source.folder / name).glob("*.safetensors"))
        if not files and name not in TOKENIZER_PARTS:
            raise DataError(
                f"{source.folder / name} holds no safetensors, and other formats are not copied; "
                "get its weights as safetensors, or move the folder away"
            )
        for file in files:
            TensorFile(file)


def _others(folder: str, names: list[str]) -> list[str]:
    """Files that are not copied."""
    return [n for n in names if Path(folder, n).is_file() and not n.endswith(_COPIED)]


def copy_parts(source: Checkpoint, target: Path) -> None:
    """Copy the folders beside the network, and the licence of the source."""
    if source.folder is None:
        return
    for name in parts_beside(source):
        shutil.copytree(source.folder / name, target / name, ignore=_others)
    for path in sorted(source.folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "NOTICE")):
            shutil.copyfile(path, target / path.name)


def write_inside_parts(source: Checkpoint, folders: Collection[str], target: Path) -> None:
    """Write parts of a single file as the folders that diffusers and transformers load.

    Args:
        source: A single file.
        folders: Which ones, by the names of the folders they become.
        target: The pipeline's folder.
    """
    for part, folder in INSIDE.items():
        tensors = source.part(part) if folder in folders else None
        if tensors is None:
            continue
        dtype, origin = _common_type(tensors), str(source.path)
        if part == "vae":
            released_autoencoder(tensors, origin).save(target / folder, dtype)
        else:
            name = "t5" if part == "t5xxl" else part
            model = stored_text_model(name, tensors, origin, dtype)
            save_pretrained(model, target / folder, dtype)


def _common_type(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The smallest type that keeps every bit of the weights; lone numbers beside them not asked."""
    types = {x.dtype for x in tensors.values() if x.is_floating_point() and x.ndim}
    return reduce(torch.promote_types, types) if types else torch.float32


def write_index(source: Checkpoint, target: Path) -> None:
    """Write model_index.json if nothing is missing that a pipeline needs."""
    own: Path | None = source.folder / INDEX if source.folder else None
    if own is not None and own.is_file():
        shutil.copyfile(own, target / INDEX)
    elif all((target / name).is_dir() for name in _CLASSES):
        write_json(target / INDEX, pipeline_index())


def pipeline_index() -> dict[str, Any]:
    """The content of model_index.json for a whole pipeline."""
    return {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": version("diffusers"),
        **{name: list(value) for name, value in _CLASSES.items()},
    }
