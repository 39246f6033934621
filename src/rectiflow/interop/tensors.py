"""Named tensors of one file or of several shards, read on demand, in a type that computes.

8-bit tensors are widened to bfloat16, see `rectiflow.encoders.released.eight_bit`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rectiflow.encoders.released.eight_bit import is_no_weight, scale_name, widened
from rectiflow.errors import DataError
from rectiflow.interop.tensor_file import TensorFile
from rectiflow.runs import read_json

EIGHT_BIT = ("F8_E4M3", "F8_E5M2")
COMPUTABLE = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
COMPUTABLE |= {"BF16": torch.bfloat16}


@dataclass(frozen=True)
class _Source:
    file: TensorFile
    name: str
    scale: str | None = None  # the tensor that is its scale, in the same file


class Tensors:
    """Tensors by name; nothing but headers is read before `read`.

    Args:
        sources: Where each lies.
    """

    def __init__(self, sources: Mapping[str, _Source]) -> None:
        self._sources = dict(sources)

    @classmethod
    def of(cls, files: Sequence[TensorFile]) -> "Tensors":
        """All tensors of some files.

        Raises:
            DataError: If two files hold a tensor of the same name.
        """
        sources: dict[str, _Source] = {}
        for file in files:
            for name in file.tensors:
                if is_no_weight(name, file.tensors):
                    continue
                if name in sources:
                    raise DataError(f"{file.path} holds {name}, and so does another shard")
                scale = scale_name(name)
                is_scaled = name.endswith(".weight") and scale in file.tensors
                sources[name] = _Source(file, name, scale if is_scaled else None)
        return cls(sources)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: str) -> bool:
        return name in self._sources

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: s.file.tensors[s.name].shape for name, s in self._sources.items()}

    def file_of(self, name: str) -> Path:
        """The file a tensor lies in."""
        return self._sources[name].file.path

    def weight_dtype(self, name: str) -> torch.dtype:
        """The type in which `read` gives a weight.

        Raises:
            DataError: If it is stored as something that is no weight.
        """
        source = self._sources[name]
        stored = source.file.tensors[source.name].dtype
        if stored in EIGHT_BIT:
            return torch.bfloat16
        if stored not in COMPUTABLE:
            raise DataError(f"{source.file.path}: {source.name} must hold weights, it is {stored}")
        return COMPUTABLE[stored]

    def read(self, name: str) -> Tensor:
        """One tensor, whatever its type; 8-bit weights are widened.

        Raises:
            DataError: If its file is damaged, or an 8-bit weight and its scale do not fit.
        """
        source = self._sources[name]
        value = source.file.read(source.name)
        scale = None if source.scale is None else source.file.read(source.scale)
        origin = str(source.file.path)
        return widened(value, scale, torch.bfloat16, name=source.name, origin=origin)

    def under(self, *prefixes: str) -> "Tensors":
        """Those whose name begins with one of `prefixes`, of which the first to fit is removed.

        Raises:
            DataError: If two of them have the same name then.
        """
        chosen: dict[str, _Source] = {}
        for name, source in self._sources.items():
            prefix = next((p for p in prefixes if name.startswith(p)), None)
            if prefix is None:
                continue
            bare = name.removeprefix(prefix)
            if bare in chosen:
                raise DataError(f"{source.file.path} holds {bare} twice, under {list(prefixes)}")
            chosen[bare] = source
        return Tensors(chosen)


def sharded(index: Path) -> list[TensorFile]:
    """The files that a shard index (`*.safetensors.index.json`) names, which lie beside it.

    Raises:
        FileNotFoundError: If one is missing.
        DataError: If one is damaged, or holds other tensors than the index says.
    """
    shards = read_json(index).get("weight_map")
    is_map = isinstance(shards, dict) and all(isinstance(x, str) for x in shards.values())
    if not is_map or not shards:
        raise DataError(f"{index} must map tensors to files in weight_map")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise DataError(f"{index} names a file outside its folder: {name!r}")
    files = [TensorFile(index.parent / name) for name in names]
    for file in files:
        listed = {tensor for tensor, shard in shards.items() if shard == file.path.name}
        if wrong := sorted(listed ^ file.tensors.keys()):
            raise DataError(f"{file.path} does not hold what {index.name} says, first {wrong[0]}")
    return files
