"""Model folders of diffusers and transformers: read strictly, hashed by content."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from rectiflow.errors import DataError

# Written by the libraries beside the settings; they tell where a file came from, not what it is.
# The names that start with an underscore are of that kind too.
_PROVENANCE = {"transformers_version", "dtype", "torch_dtype", "architectures"}


def load_pretrained(cls: Any, folder: Path, **options: Any) -> Any:
    """`cls.from_pretrained(folder)`, offline and from safetensors only, in evaluation mode.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        DataError: If a file in it is damaged or does not fit its configuration.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json")
    try:
        with without_progress_bars():
            model, report = cls.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=_variant(folder),
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be read as {cls.__name__}: {error}") from error
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise DataError(f"{folder}: weights do not fit config.json, first {wrong[0]}")
    return model.eval()


def _variant(folder: Path) -> str | None:
    """The variant fp16 where a folder holds no other weights: some downloads fetch it alone."""
    stems = ("model", "diffusion_pytorch_model")
    whole = [f"{stem}.safetensors{end}" for stem in stems for end in ("", ".index.json")]
    if any((folder / name).is_file() for name in whole):
        return None
    halves = [
        f"{stem}.{end}"
        for stem in stems
        for end in ("fp16.safetensors", "safetensors.index.fp16.json")
    ]
    return "fp16" if any((folder / name).is_file() for name in halves) else None


def load_tokenizer(cls: Any, folder: Path) -> Any:
    """`cls.from_pretrained(folder)` of a tokenizer, offline.

    Raises:
        FileNotFoundError: If the folder has no `tokenizer_config.json`.
        DataError: If a file in it is damaged.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder} is no tokenizer folder: no tokenizer_config.json")
    try:
        return cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust side raises bare Exception on a damaged file
        raise DataError(f"{folder} cannot be read as {cls.__name__}: {error}") from error


def save_pretrained(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write configuration and safetensors, the weights in `dtype`; the model keeps its own."""
    if dtype != torch.float32:
        model = nn.Module.to(copy.deepcopy(model), dtype)  # diffusers' own `to` prints a warning
    with without_progress_bars():
        model.save_pretrained(str(folder))


def content_hash(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of settings and float32 weights, so that the type on disk does not enter.

    bf16 weights and their float32 copies are the same numbers and hash alike.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name in sorted(weights):
        values = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def model_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what the libraries note about the file it came from."""
    return {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in _PROVENANCE
    }


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """What decides the ids of a text: vocabulary and rules, without the state of the last call."""
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("padding", "truncation"):
        facts.pop(state)
    return {**facts, "pad": tokenizer.pad_token_id, "length": tokenizer.model_max_length}


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """These models are read in milliseconds; a bar per folder would only hide what matters."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
