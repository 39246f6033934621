"""Write an opened checkpoint in the original layout or in diffusers'.

`plan` refuses what cannot be written and tells what would be; `convert` writes it. The tensors are
those of the source, bit for bit, unless another type is asked for.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectiflow.flow.formulations import formulation
from rectiflow.flow.paths import RectifiedFlow
from rectiflow.flow.predictions import VelocityPrediction
from rectiflow.interop.checkpoint import NETWORK_PREFIX, PART_PREFIXES, Checkpoint
from rectiflow.interop.keys import Foreign, pieces
from rectiflow.interop.pipeline_folder import (
    INSIDE,
    check_parts,
    copy_parts,
    parts_beside,
    shift_of,
    write_index,
    write_inside_parts,
    write_scheduler,
)
from rectiflow.interop.settings import DIFFUSERS_CLASS, DIFFUSERS_NAME, diffusers_settings
from rectiflow.interop.tensor_file import CHECKSUM, FACTS, write_tensor_file
from rectiflow.interop.vae_names import original_vae
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.runs import replacing_folder, write_json

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ORIGINAL_HEAD_WIDTH = 64
SHARD_BYTES = 5 * 10**9  # as on the hub
NOTICE = (
    "Derived from a Stability AI release, which is under the Stability AI Community License "
    "(https://stability.ai/license). Powered by Stability AI."
)
_NOT_CARRIED = ("format", FACTS, CHECKSUM, "modelspec.hash_sha256")

OnProgress = Callable[[int, int], None]  # (tensors written, tensors in all)


@dataclass(frozen=True)
class Conversion:
    """What is to be written.

    Args:
        source: The opened checkpoint.
        to: Layout of the result.
        target: Folder (diffusers) or file (stability) that appears.
        dtype: Type of the network's weights; None keeps each as it is.
        shards: Names of the network's tensors in the new layout, file by file.
        num_bytes: Of the network's tensors.
    """

    source: Checkpoint
    to: Foreign
    target: Path
    dtype: torch.dtype | None
    shards: Mapping[str, tuple[str, ...]]
    num_bytes: int

    @property
    def num_tensors(self) -> int:
        """Tensors of the network in the new layout."""
        return sum(map(len, self.shards.values()))

    @property
    def parts(self) -> list[str]:
        """What else is written: parts of the pipeline, by their names in the new layout."""
        source = self.source
        inside = [name for name in INSIDE if len(source.stored.under(*PART_PREFIXES[name]))]
        if source.layout != "stability":
            inside = []
        if self.to == "diffusers":
            return parts_beside(source) or [INSIDE[name] for name in inside]
        return inside or (["vae"] if _vae_beside(source) else [])

    @property
    def left_out(self) -> list[str]:
        """Parts of the source that the new layout has no place for."""
        return (
            [] if self.to == "diffusers" else sorted({*parts_beside(self.source)} - {*self.parts})
        )

    @property
    def notice(self) -> str | None:
        """The licence notice that goes into the files; None for a model of ours."""
        return self.source.metadata.get("license") or (NOTICE if self.source.release else None)

    def facts(self) -> dict[str, Any]:
        """The plan, ready for JSON."""
        source = self.source
        return {
            "source": str(source.path),
            "layout": source.layout,
            "release": source.release,
            "network": dataclasses.asdict(source.config),
            "to": self.to,
            "target": str(self.target),
            "tensors": self.num_tensors,
            "bytes": self.num_bytes,
            "files": list(self.shards),
            "parts": self.parts,
            "left_out": self.left_out,
            "shift": shift_of(source),
            "license": self.notice,
        }


def plan(
    source: Checkpoint,
    to: Foreign,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
) -> Conversion:
    """Say what a conversion writes; reads and writes no weights.

    Args:
        source: What to convert.
        to: "diffusers" (a folder) or "stability" (a single file).
        target: Must not exist, or be an empty folder.
        dtype: Type of the network's weights; None keeps each as it is.
        shard_bytes: Largest file of the network in a diffusers folder; None for `SHARD_BYTES`.

    Raises:
        ValueError: If the layout cannot hold the network, or target or shards do not suit it.
        DataError: If a part beside the network is damaged or incomplete.
    """
    _refuse_target(to, target, shard_bytes)
    _refuse_network(to, source.config)
    _refuse_formulation(source)
    if to == "diffusers":
        check_parts(source)
    sizes: dict[str, int] = {}
    with torch.device("meta"):
        state = MMDiT(source.config).state_dict()
    for piece in pieces(to, source.config):
        width = (dtype or source.dtype(piece.ours)).itemsize
        parts = piece.to_theirs(state[piece.ours], source.config.patch_size)
        sizes |= {k: x.numel() * width for k, x in zip(piece.theirs, parts, strict=True)}
    if to == "stability":
        shards = {target.name: tuple(NETWORK_PREFIX + name for name in sizes)}
    else:
        shards = _shards(sizes, shard_bytes or SHARD_BYTES)
    return Conversion(source, to, target, dtype, shards, sum(sizes.values()))


def convert(conversion: Conversion, on_progress: OnProgress | None = None) -> Path:
    """Write what `plan` said; the target appears whole or not at all.

    Raises:
        DataError: If a file of the source is damaged, or a weight is not finite.
        ValueError: If a weight does not fit the type asked for.
    """
    if conversion.to == "stability":
        _write_file(conversion, on_progress)
        return conversion.target
    with replacing_folder(conversion.target) as partial:
        _write_folder(conversion, partial, on_progress)
    return conversion.target


def _refuse_target(to: Foreign, target: Path, shard_bytes: int | None) -> None:
    if shard_bytes is not None and shard_bytes < 1:
        raise ValueError(f"a shard must have at least 1 byte, got {shard_bytes}")
    if to == "diffusers":
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"the new folder must be empty or not there, {target} is")
        return
    if shard_bytes is not None:
        raise ValueError("the original layout is one file; shards are for diffusers")
    if target.suffix != ".safetensors":
        raise ValueError(f"the original layout is one file ending in .safetensors, got {target}")
    if target.exists():
        raise ValueError(f"the new file must not be there yet, {target} is")


def _refuse_network(to: Foreign, config: MMDiTConfig) -> None:
    if config.rows != config.table_side:
        raise ValueError(
            f"both layouts have a square table of positions, got {config.rows}x{config.table_side}"
        )
    is_loadable = config.head_width == ORIGINAL_HEAD_WIDTH and config.heads == config.depth
    if to == "stability" and not is_loadable:
        raise ValueError(
            f"programs that read the original layout take depth = heads = width / 64, got depth "
            f"{config.depth}, heads {config.heads}, width {config.width}; convert to diffusers"
        )


def _refuse_formulation(source: Checkpoint) -> None:
    """Files of others have no place for what an output means: it is the velocity."""
    recipe = source.facts.get("recipe")
    objective = recipe.get("objective") if isinstance(recipe, Mapping) else None
    name = objective.get("formulation") if isinstance(objective, Mapping) else None
    if not isinstance(name, str):
        return
    found = formulation(name)
    if type(found.path) is not RectifiedFlow or type(found.prediction) is not VelocityPrediction:
        raise ValueError(
            f"other programs take the output for the velocity of a rectified flow, but "
            f"{source.path} was trained as {name}"
        )


def _shards(sizes: Mapping[str, int], most: int) -> dict[str, tuple[str, ...]]:
    """Tensors per file, in order; a file is not larger than `most` unless one tensor is."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {f"{DIFFUSERS_NAME}.safetensors": tuple(groups[0])}
    return {
        f"{DIFFUSERS_NAME}-{i:05}-of-{len(groups):05}.safetensors": tuple(group)
        for i, group in enumerate(groups, start=1)
    }


def _write_file(conversion: Conversion, on_progress: OnProgress | None) -> None:
    """The original single file: the network, and the parts that this layout has a place for."""
    source = conversion.source
    tensors = {f"{NETWORK_PREFIX}{k}": v for k, v in _network(conversion, on_progress)}
    for part in conversion.parts:
        values = source.part(part) if source.layout == "stability" else _vae_beside(source)
        tensors |= {f"{PART_PREFIXES[part][0]}{k}": v for k, v in (values or {}).items()}
    write_tensor_file(conversion.target, tensors, _own_facts(conversion), _metadata(conversion))


def _write_folder(conversion: Conversion, folder: Path, on_progress: OnProgress | None) -> None:
    """The folder of a pipeline, as far as the source has its parts."""
    source, place = conversion.source, folder / "transformer"
    place.mkdir(parents=True)
    shard_of = {name: file for file, names in conversion.shards.items() for name in names}
    waiting: dict[str, dict[str, Tensor]] = {file: {} for file in conversion.shards}
    for name, value in _network(conversion, on_progress):
        file = shard_of[name]
        waiting[file][name] = value
        if len(waiting[file]) == len(conversion.shards[file]):
            write_tensor_file(
                place / file, waiting.pop(file), _own_facts(conversion), _metadata(conversion)
            )
    if len(conversion.shards) > 1:
        index = {"metadata": {"total_size": conversion.num_bytes}, "weight_map": shard_of}
        write_json(place / f"{DIFFUSERS_NAME}.safetensors.index.json", index)
    settings = diffusers_settings(source.config)
    write_json(place / "config.json", {"_class_name": DIFFUSERS_CLASS, **settings})
    write_scheduler(source, folder)
    copy_parts(source, folder)
    if not parts_beside(source):
        write_inside_parts(source, conversion.parts, folder)
    write_index(source, folder)
    if conversion.notice and not (folder / "NOTICE.txt").exists():  # the source's own stays
        (folder / "NOTICE.txt").write_text(conversion.notice + "\n", encoding="utf-8")


def _network(
    conversion: Conversion, on_progress: OnProgress | None
) -> Iterator[tuple[str, Tensor]]:
    """The network's tensors under their new names, in the order of the plan."""
    source, done = conversion.source, 0
    for piece in pieces(conversion.to, source.config):
        value = source.tensor(piece.ours)
        if conversion.dtype is not None:
            value = value.to(conversion.dtype)
            if not torch.isfinite(value).all():
                raise ValueError(f"{piece.ours} of {source.path} does not fit {conversion.dtype}")
        parts = piece.to_theirs(value, source.config.patch_size)
        yield from zip(piece.theirs, parts, strict=True)
        done += len(parts)
        if on_progress is not None:
            on_progress(done, conversion.num_tensors)


def _own_facts(conversion: Conversion) -> dict[str, Any]:
    """What we note in the files: enough to read them again without guessing."""
    source = conversion.source
    facts = {
        "layout": conversion.to,
        "config": dataclasses.asdict(source.config),
        "recipe": source.facts.get("recipe"),
        "release": source.release,  # its shape alone does not tell Turbo from Large
    }
    return {name: value for name, value in facts.items() if value is not None}


def _metadata(conversion: Conversion) -> dict[str, str]:
    carried = {k: v for k, v in conversion.source.metadata.items() if k not in _NOT_CARRIED}
    return carried | ({"license": conversion.notice} if conversion.notice else {})


def _vae_beside(source: Checkpoint) -> dict[str, Tensor] | None:
    return original_vae(source.folder / "vae") if source.folder else None
