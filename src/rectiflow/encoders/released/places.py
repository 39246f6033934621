"""Find text encoders and tokenizers of the releases: in folders, in files, inside a model's file.

In a folder are looked for, in this order: the subfolders of a diffusers pipeline (`text_encoder`,
`text_encoder_2`, `text_encoder_3`; `tokenizer` and so on), ComfyUI's files (`clip_l.safetensors`,
`clip_g.safetensors`, `t5xxl_*.safetensors`), and a copy of the public repository under its own name
(`clip-vit-large-patch14`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from rectiflow.encoders.folders import load_pretrained, load_tokenizer, refuse_non_finite
from rectiflow.encoders.released.models import text_model
from rectiflow.encoders.states import ENCODERS
from rectiflow.encoders.text import FOLDERS, TOKENIZER_FOLDERS
from rectiflow.errors import DataError

REPOSITORIES = {
    "clip_l": "openai/clip-vit-large-patch14",
    "clip_g": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "t5": "google/t5-v1_1-xxl",
}
"""Where text encoders and their tokenizers are public, without the gate of the releases."""

PART_NAMES = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"}
"""Names of the encoders in ComfyUI's files and inside single files."""

_T5_VARIANTS = ("", "_bf16", "_fp16", "_fp32", "_fp8_e4m3fn_scaled", "_fp8_e4m3fn")  # best first
_MODELS: Mapping[str, Any] = dict(
    zip(ENCODERS, (CLIPTextModelWithProjection,) * 2 + (T5EncoderModel,), strict=True)
)
_TOKENIZERS: Mapping[str, Any] = dict(
    zip(ENCODERS, (CLIPTokenizer, CLIPTokenizer, T5Tokenizer), strict=True)
)
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
_VOCABULARY_FILES = ("vocab.json", "merges.txt", "spiece.model", "added_tokens.json")

Fetch = Callable[[str, Sequence[str]], Path]
"""(repository, file patterns) -> folder with its files."""


@dataclass(frozen=True)
class TextPart:
    """One text encoder, found but not loaded, and its tokenizer.

    Args:
        name: One of `ENCODERS`.
        origin: Where it lies, for messages.
        load: Reads the network, its weights in the given type, on the CPU.
        tokenizer: Pads as SD3 does: CLIP-L with the end of text, bigG and T5 with id 0.
    """

    name: str
    origin: str
    load: Callable[[torch.dtype], nn.Module]
    tokenizer: Any


@dataclass(frozen=True)
class Places:
    """Where to look, the first place first.

    Args:
        encoders: Folders of text encoders that the caller named.
        inside: Encoders inside the model's own file, by name in `ENCODERS`: functions that read
            their tensors. Looked at after `encoders`.
        beside: Folders beside the model. Looked at last, also for tokenizers.
        tokenizers: Folders of tokenizers that the caller named.
        fetch: Downloads from a public repository what is nowhere else; None forbids it.
    """

    encoders: Sequence[Path] = ()
    inside: Mapping[str, Callable[[], Mapping[str, Tensor]]] = field(default_factory=dict)
    beside: Sequence[Path] = ()
    tokenizers: Sequence[Path] = ()
    fetch: Fetch | None = None


def find_text_parts(places: Places, without: Collection[str] = ()) -> tuple[TextPart, ...]:
    """Find every text encoder and tokenizer but those that are to be left out.

    Raises:
        ValueError: If `without` names no text encoder.
        FileNotFoundError: If something is nowhere; the message names the public repositories. Also
            if nothing in the folders that the caller named is used.
        DataError: If a tokenizer is damaged.
    """
    if unknown := sorted(set(without) - set(ENCODERS)):
        raise ValueError(f"text encoders are {', '.join(ENCODERS)}, got {', '.join(unknown)}")
    parts, missing, used_encoders, used_tokenizers = [], [], list[Path](), list[Path]()
    for name in ENCODERS:
        if name in without:
            continue
        found, folder = _encoder(name, places), _tokenizer_folder(name, places)
        if found is None:
            missing.append(f"text encoder {name} (public: {REPOSITORIES[name]})")
        if folder is None:
            missing.append(f"tokenizer of {name} (public: {REPOSITORIES[name]})")
        if found is not None and folder is not None:
            parts.append(TextPart(name, *found, load_padded(name, folder)))
            used_encoders.append(Path(found[0]))
            used_tokenizers.append(folder)
    if missing:
        looked = [*places.encoders, *places.tokenizers, *places.beside]
        raise FileNotFoundError(
            f"there is no {', no '.join(missing)} in {', '.join(map(str, looked)) or 'any folder'};"
            " give --text-encoders DIR or --tokenizers DIR, permit --download, or leave the "
            "encoder out by --without NAME"
        )
    _refuse_idle("--text-encoders", places.encoders, used_encoders + used_tokenizers)
    _refuse_idle("--tokenizers", places.tokenizers, used_tokenizers)
    return tuple(parts)


def _refuse_idle(option: str, named: Sequence[Path], used: Collection[Path]) -> None:
    """Refuse folders that the caller named and of which nothing is used."""
    if named and not any(path.is_relative_to(place) for path in used for place in named):
        raise FileNotFoundError(f"{option} {named[0]} has no effect: nothing in it is used")


def load_padded(name: str, folder: Path) -> Any:
    """A tokenizer that pads as SD3 does, whatever its own files say.

    The public tokenizer of bigG pads with the end of text, the released one with id 0 ("!").

    Raises:
        ValueError: If it is a SentencePiece file alone, and nothing here reads these.
        DataError: If a file is damaged.
    """
    is_piece_file = (folder / "spiece.model").is_file()
    if (
        is_piece_file
        and not (folder / "tokenizer.json").is_file()
        and not find_spec("sentencepiece")
    ):
        raise ValueError(
            f"{folder} holds its tokenizer as spiece.model alone, which takes the package "
            "sentencepiece to read: install it, or give --tokenizers DIR with a tokenizer.json"
        )
    tokenizer = load_tokenizer(_TOKENIZERS[name], folder)
    length = tokenizer.model_max_length
    if not isinstance(length, int | float) or length < 1 or tokenizer.eos_token_id is None:
        raise DataError(
            f"{folder} is no tokenizer of {name}: it needs an end of text and a positive "
            f"model_max_length, got {tokenizer.eos_token!r} and {length!r}"
        )
    pad = tokenizer.eos_token_id if name == "clip_l" else 0
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return tokenizer


def _encoder(name: str, places: Places) -> tuple[str, Callable[[torch.dtype], nn.Module]] | None:
    for place in places.encoders:
        if found := _encoder_in(place, name):
            return found
    if name in places.inside:
        origin = f"{PART_NAMES[name]} inside the model's file"
        read = places.inside[name]
        return origin, lambda dtype: text_model(name, read(), origin, dtype)
    for place in places.beside:
        if found := _encoder_in(place, name):
            return found
    if places.fetch is None:
        return None
    folder = places.fetch(REPOSITORIES[name], ("model*.safetensors", "config.json"))
    files = _weight_files(folder)
    if not files:
        raise FileNotFoundError(
            f"{REPOSITORIES[name]} holds no safetensors; get {PART_NAMES[name]}*.safetensors "
            "elsewhere and give --text-encoders DIR"
        )
    return str(folder), partial(_from_files, name, files)


def _encoder_in(folder: Path, name: str) -> tuple[str, Callable[[torch.dtype], nn.Module]] | None:
    pipeline_part = folder / FOLDERS[ENCODERS.index(name)]
    if (pipeline_part / "config.json").is_file():
        cls = _MODELS[name]
        return str(pipeline_part), lambda dtype: load_pretrained(cls, pipeline_part, dtype=dtype)
    variants = _T5_VARIANTS if name == "t5" else ("",)
    files = [folder / f"{PART_NAMES[name]}{variant}.safetensors" for variant in variants]
    if name == "t5":
        files += sorted(folder.glob(f"{PART_NAMES[name]}_*.safetensors"))
    for file in files:
        if file.is_file():
            return str(file), partial(_from_files, name, [file])
    copy = folder / REPOSITORIES[name].rpartition("/")[2]
    if files := _weight_files(copy):
        return str(copy), partial(_from_files, name, files)
    return None


def _weight_files(folder: Path) -> list[Path]:
    """The file of a repository's model, or its shards."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))


def _from_files(name: str, files: Sequence[Path], dtype: torch.dtype) -> nn.Module:
    tensors: dict[str, Tensor] = {}
    for file in files:
        for key, value in _tensors(file):
            if key in tensors:
                raise DataError(f"{file} holds {key}, and so does another shard")
            refuse_non_finite(key, value, file)
            tensors[key] = value
    return text_model(name, tensors, str(files[0]), dtype)


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a safetensors file, but not those of a decoder or a picture model."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                if not key.startswith(("decoder.", "lm_head.", "vision_model.")):
                    yield key, opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is damaged: {error}") from error


def _tokenizer_folder(name: str, places: Places) -> Path | None:
    own = TOKENIZER_FOLDERS[ENCODERS.index(name)]
    copy = REPOSITORIES[name].rpartition("/")[2]
    # Both CLIP tokenizers have the same vocabulary, so either serves.
    names = (own, copy) if name == "t5" else (own, copy, *TOKENIZER_FOLDERS[:2])
    for place in (*places.tokenizers, *places.encoders, *places.beside):
        for folder in (place / each for each in names):
            if (folder / "tokenizer_config.json").is_file():
                return folder
    if places.fetch is None:
        return None
    return places.fetch(REPOSITORIES[name], (*_TOKENIZER_FILES, *_VOCABULARY_FILES))
