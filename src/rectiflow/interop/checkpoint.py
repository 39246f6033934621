"""Open an MM-DiT's weights in any layout; what is there is known before the weights are read."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rectiflow.encoders.folders import refuse_non_finite
from rectiflow.errors import DataError
from rectiflow.interop.forms import Piece
from rectiflow.interop.keys import Foreign, pieces
from rectiflow.interop.settings import (
    DIFFUSERS_CLASS,
    DIFFUSERS_NAME,
    diffusers_mistakes,
    read_config,
)
from rectiflow.interop.shapes import check_fit, infer_config, release_of
from rectiflow.interop.tensor_file import TensorFile
from rectiflow.interop.tensors import Tensors, sharded
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.runs import Run, read_json
from rectiflow.sealing import MANIFEST, verify

Layout = Literal["stability", "diffusers", "rectiflow"]
NETWORK_PREFIX = "model.diffusion_model."
PART_PREFIXES = {
    "vae": ("first_stage_model.",),
    **{
        name: (f"text_encoders.{name}.transformer.", f"text_encoders.{name}.")
        for name in ("clip_l", "clip_g", "t5xxl")
    },
}
"""Where the parts of an original single file lie in it; of two prefixes the first to fit counts."""

_SHARD = re.compile(r".*-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Weights are read by `load_network`, `tensor` and `part` only.

    Attributes:
        path: What was opened.
        layout: Whose names the tensors bear.
        config: The network's shape.
        release: The release whose shape and name it has, if it is not known to be a model of ours.
        folder: Where vae/, text_encoder*/ and tokenizer*/ lie, if beside the network in folders.
        metadata: Of the weights' first file: whatever its writer noted.
        facts: What we noted if we wrote it: `config`, `layout`, perhaps `recipe` or `release`.
        pieces: How each tensor of the network, under our names, is held.
        network: The network's tensors as stored, without the container's prefix.
        stored: All tensors of the files.
    """

    path: Path
    layout: Layout
    config: MMDiTConfig
    release: str | None
    folder: Path | None
    metadata: Mapping[str, str]
    facts: Mapping[str, Any]
    pieces: Mapping[str, Piece]
    network: Tensors
    stored: Tensors

    def tensor(self, name: str) -> Tensor:
        """One tensor of the network by our name, in the stored type.

        Raises:
            DataError: If it holds no floats, or one that is not finite, or the checksum of a file
                of ours fails.
        """
        self.dtype(name)  # refuses what is no weight
        piece = self.pieces[name]
        parts = [self.network.read(part) for part in piece.theirs]
        for part, value in zip(piece.theirs, parts, strict=True):
            refuse_non_finite(part, value, self.network.file_of(part))
        return piece.to_ours(parts)

    def dtype(self, name: str) -> torch.dtype:
        """The type of one tensor of the network by our name."""
        types = [self.network.weight_dtype(part) for part in self.pieces[name].theirs]
        return reduce(torch.promote_types, types)

    def load_network(self, dtype: torch.dtype = torch.float32) -> MMDiT:
        """The network with its weights in `dtype`, on CPU.

        Raises:
            DataError: If a weight is not finite, or the checksum of a file of ours fails.
        """
        with torch.device("meta"):  # no time spent on first weights that are replaced at once
            network = MMDiT(self.config)
        weights = {name: self.tensor(name).to(dtype).contiguous() for name in self.pieces}
        network.load_state_dict(weights, assign=True)
        return network.eval()

    def part(self, name: str) -> dict[str, Tensor] | None:
        """Tensors of a part inside an original single file, the container's prefix removed.

        Args:
            name: "vae", "clip_l", "clip_g" or "t5xxl".

        Returns:
            The tensors by their names in the file, 8-bit ones widened; None if it is not there.

        Raises:
            ValueError: If there is no part of that name.
            DataError: If one is not finite, or the checksum of a file of ours fails.
        """
        if name not in PART_PREFIXES:
            raise ValueError(f"parts are {', '.join(PART_PREFIXES)}, got {name!r}")
        if self.layout != "stability":
            return None
        inside = self.stored.under(*PART_PREFIXES[name])
        tensors = {key: inside.read(key) for key in inside}
        for key, value in tensors.items():
            refuse_non_finite(key, value, inside.file_of(key))
        return tensors or None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open an original single file, a diffusers folder or file, a bundle, or a finished run.

    Headers and configurations are read and held against each other; of the weights only the
    positions, whose values tell the size that the network is made for. The files of a bundle or a
    run are compared with their checksums.

    Args:
        path: A file, the folder of a pipeline or of its transformer, a bundle, or a run.

    Raises:
        FileNotFoundError: If there is nothing, or no network in the folder.
        DataError: If a file is damaged, or fits no layout; missing and unknown tensors are listed.
    """
    if path.is_file():
        return _open_files([TensorFile(path)], path, None)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file or folder {path}")
    export = Run(path).export
    if (path / MANIFEST).is_file() or (export / MANIFEST).is_file():
        return _open_bundle(path if (path / MANIFEST).is_file() else export)
    inner = path / "transformer"
    folder = inner if inner.is_dir() else path
    if (folder / "config.json").is_file() or inner.is_dir():
        return _open_diffusers(folder, path)
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return open_checkpoint(files[0])
    if files:
        raise ValueError(f"{path} holds {len(files)} safetensors files; name one of them")
    raise FileNotFoundError(
        f"{path} holds no network: no {MANIFEST}, no transformer/, no safetensors file"
    )


def _open_bundle(folder: Path) -> Checkpoint:
    files = verify(folder)["files"]
    place = folder / "mmdit"
    for name in ("config.json", "model.safetensors"):
        if f"mmdit/{name}" not in files:
            raise FileNotFoundError(f"{folder} holds no mmdit/{name}; only an MM-DiT converts")
    file = TensorFile(place / "model.safetensors")
    with _naming(place / "config.json"):
        config = read_config(read_json(place / "config.json"))
    recipe = read_json(folder / "config.json") if "config.json" in files else None
    network = Tensors.of([file])
    with torch.device("meta"):
        state = MMDiT(config).state_dict()
    held = {name: Piece(name, (name,)) for name in state}
    with _naming(file.path):
        check_fit(list(held.values()), config, network)
    return Checkpoint(
        path=folder,
        layout="rectiflow",
        config=config,
        release=None,
        folder=folder,
        metadata=file.metadata,
        facts={"recipe": recipe} if recipe else {},
        pieces=held,
        network=network,
        stored=network,
    )


def _open_diffusers(folder: Path, path: Path) -> Checkpoint:
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    settings = read_json(config)
    if "kind" in settings and "_class_name" not in settings:
        raise FileNotFoundError(f"{path} is a run without an export; let it finish first")
    if settings.get("_class_name", DIFFUSERS_CLASS) != DIFFUSERS_CLASS:
        raise ValueError(f"{config} is of a {settings['_class_name']}, not a {DIFFUSERS_CLASS}")
    return _open_files(_diffusers_files(folder), path, settings)


def _diffusers_files(folder: Path) -> list[TensorFile]:
    """The weights of a folder: one file, or shards with an index; a variant only if it is alone."""
    index = folder / f"{DIFFUSERS_NAME}.safetensors.index.json"
    whole = folder / f"{DIFFUSERS_NAME}.safetensors"
    if whole.is_file():
        return [TensorFile(whole)]
    if index.is_file():
        return sharded(index)
    indices = sorted(folder.glob(f"{DIFFUSERS_NAME}*.index*.json"))
    if indices:
        found = indices
    else:
        names = sorted(folder.glob(f"{DIFFUSERS_NAME}*.safetensors"))
        found = [name for name in names if not _SHARD.match(name.stem)]
    if len(found) != 1:
        variants = f"; it has {', '.join(path.name for path in found)}" if found else ""
        raise FileNotFoundError(f"{folder} holds no {whole.name} and no index of shards{variants}")
    return sharded(found[0]) if indices else [TensorFile(found[0])]


def _open_files(
    files: Sequence[TensorFile], path: Path, settings: Mapping[str, Any] | None
) -> Checkpoint:
    """Open weights in one of the layouts of others; `settings` is diffusers' configuration."""
    stored, first = Tensors.of(files), files[0]
    with _naming(path if len(files) > 1 else first.path):
        layout, network = _recognised(stored)
        facts = first.facts()
        if layout == "rectiflow":
            raise DataError("holds a network in this package's own names; give its bundle's folder")
        if settings is not None and layout != "diffusers":
            raise DataError(f"bears the names of the {layout} layout in a diffusers folder")
        config = _config(layout, network, facts, settings)
        held = pieces(layout, config)
        check_fit(held, config, network)
    is_pipeline = settings is not None and (path / "transformer").is_dir()
    return Checkpoint(
        path=path,
        layout=layout,
        config=config,
        release=None if facts.get("recipe") else release_of(config, path, facts.get("release")),
        folder=path if is_pipeline else None,
        metadata=first.metadata,
        facts=facts,
        pieces={piece.ours: piece for piece in held},
        network=network,
        stored=stored,
    )


def _recognised(stored: Tensors) -> tuple[Layout, Tensors]:
    """The layout of some tensors, and those of the network under their bare names.

    Raises:
        DataError: If it is none, or a tensor lies where no part does.
    """
    network = stored.under(NETWORK_PREFIX)
    known = (NETWORK_PREFIX, *(prefix for each in PART_PREFIXES.values() for prefix in each))
    if len(network):
        strangers = [name for name in stored if not name.startswith(known)]
        if strangers:
            raise DataError(f"holds tensors of no known part: {json.dumps(strangers[:20])}")
    else:
        network = stored
    layouts: dict[str, Layout] = {
        "joint_blocks.": "stability",
        "transformer_blocks.": "diffusers",
        "blocks.": "rectiflow",
    }
    for prefix, layout in layouts.items():
        if any(name.startswith(prefix) for name in network):
            return layout, network
    few = ", ".join(sorted(network)[:3]) or "nothing"
    raise DataError(f"is no MM-DiT in a known layout: it holds {few} ({len(network)} tensors)")


def _config(
    layout: Foreign,
    network: Tensors,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
) -> MMDiTConfig:
    """What we noted in a file of ours, else what the shapes say; diffusers' settings must agree."""
    if "config" in facts:
        config = read_config(facts["config"])
    else:
        head_width, sample_side = _hints(settings or {})
        config = infer_config(layout, network, head_width=head_width, sample_side=sample_side)
    mistakes = diffusers_mistakes(config, settings) if settings is not None else []
    if mistakes:
        raise DataError(f"contradicts its config.json: {'; '.join(mistakes)}")
    return config


def _hints(settings: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Width of a head, and image tokens per side, as diffusers' configuration has them."""
    numbers = {
        name: settings.get(name) for name in ("attention_head_dim", "sample_size", "patch_size")
    }
    for name, value in numbers.items():
        if value is not None and (type(value) is not int or value < 1):
            raise DataError(f"has a config.json whose {name} must be a positive integer: {value!r}")
    size, patch = numbers["sample_size"], numbers["patch_size"] or 2
    return numbers["attention_head_dim"], max(1, size // patch) if size else None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the message of a `DataError` with the file it is about, unless it names one."""
    try:
        yield
    except DataError as error:
        message = str(error)
        named = message if str(path.parent) in message else f"{path} {message}"
        raise DataError(named) from error
