"""Model folders of diffusers and transformers: read strictly, hashed by content."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rectiflow.errors import DataError

# Written by the libraries beside the settings; they tell where a file came from, not what it is.
# The names that start with an underscore are diffusers' of that kind.
_PROVENANCE = {"transformers_version", "dtype", "torch_dtype"}


def load_pretrained(cls: Any, folder: Path, **options: Any) -> Any:
    """`cls.from_pretrained(folder)`, offline and from safetensors only, in evaluation mode.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        DataError: If a file in it is damaged or does not fit its configuration.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json")
    try:
        model, report = cls.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be read as {cls.__name__}: {error}") from error
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise DataError(f"{folder}: weights do not fit config.json, first {wrong[0]}")
    return model.eval()


def content_hash(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of settings and float32 weights, so that the type on disk does not enter.

    bf16 weights and their float32 copies are the same numbers and hash alike.
    """
    settings = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in _PROVENANCE
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(weights):
        values = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
