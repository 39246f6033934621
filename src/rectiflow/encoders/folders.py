"""Model folders of diffusers and transformers: read strictly, hashed by content."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from rectiflow.errors import DataError
from rectiflow.runs import read_json

# Written by the libraries beside the settings; they tell where a file came from, not what it is.
# The names that start with an underscore are of that kind too.
_PROVENANCE = {"transformers_version", "dtype", "torch_dtype", "architectures"}


def load_pretrained(cls: Any, folder: Path, **options: Any) -> Any:
    """`cls.from_pretrained(folder)`, offline and from safetensors only, in evaluation mode.

    Raises:
        FileNotFoundError: If the folder has no `config.json`.
        DataError: If a file in it is damaged, does not fit its configuration, holds weights that
            are not finite, or asks for other code than the library's own.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no model folder: it has no config.json")
    _refuse_other_code(folder / "config.json")
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
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise nearly everything for settings of wrong types
        raise DataError(f"{folder} cannot be read as {cls.__name__}: {error}") from error
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise DataError(f"{folder}: weights do not fit config.json, first {wrong[0]}")
    for name, value in model.state_dict().items():
        refuse_non_finite(name, value, folder)
    return model.eval()


def refuse_non_finite(name: str, value: Tensor, origin: Path) -> None:
    """Refuse a tensor with values that are inf or nan.

    Raises:
        DataError: If there are any; the message counts them and names `origin`, a file or folder.
    """
    wide = value.float() if value.is_floating_point() and value.itemsize == 1 else value
    wrong = int((~torch.isfinite(wide)).sum())  # there is no such test of 8-bit values
    if wrong:
        raise DataError(f"{origin}: {name} holds {wrong} values that are inf or nan")


def _refuse_other_code(config: Path) -> None:
    """Settings that make the libraries fetch code, or read weights as something else, are refused.

    transformers takes an attention that is named OWNER/NAME for a program on the hub.
    """
    settings = read_json(config)
    attention = [settings.get(f"{prefix}attn_implementation") for prefix in ("", "_")]
    if asked := [name for name in attention if name not in (None, "eager", "sdpa")]:
        raise DataError(f"{config} asks for another program's attention: {asked[0]!r}")
    if settings.get("quantization_config") is not None:
        raise DataError(f"{config} is of quantised weights, which are not read; get others")


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
    if any(p.dtype != dtype for p in model.parameters()):
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
