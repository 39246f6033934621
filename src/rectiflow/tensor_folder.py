"""Named tensors as a folder of safetensors, one file for each process that writes.

Written and read by torch.distributed.checkpoint with its Hugging Face layout. A tensor is whole,
and then the same in every process and written by one of them, or a DTensor, of which each process
writes its part. What any number of processes wrote is read by any other number, also by one alone
and without `torch.distributed` being set up.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    create_default_local_save_plan,
)
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from rectiflow.errors import DataError

SUFFIX = ".safetensors"


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a DTensor, or the tensor itself; the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Snapshot(DefaultSavePlanner):
    """What falls to this process of named tensors, ready to be written, also by another thread.

    What several processes hold alike falls to one of them.

    Args:
        tensors: Whole ones, or DTensors; the same names in every process.
        is_copied: Whether to copy the values to host memory now; otherwise the tensors must
            stay as they are until they are written.
        rank: Of this process among those that write together.
        num: How many they are.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        is_copied: bool = False,
        rank: int = 0,
        num: int = 1,
    ) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        mine = {name: tensors[name] for name in _dealt(tensors, rank, num)}
        self._local_plan = create_default_local_save_plan(mine, is_coordinator=True)
        parts = {name: local_part(tensor).detach() for name, tensor in mine.items()}
        self._parts = _copied(parts) if is_copied else parts

    def create_local_plan(self) -> SavePlan:
        """What was planned when the snapshot was taken."""
        self.plan = self._local_plan
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The values that are written for an entry of the plan."""
        return self._parts[index.fqn].contiguous()


def write(folder: Path, snapshot: Snapshot, group: ProcessGroup | None = None) -> None:
    """Write every process's file and put it on the disk; returns when all are there.

    Args:
        folder: Is created; holds no other files.
        snapshot: Of this process.
        group: The processes that write together, on the host; None if this one is alone.

    Raises:
        OSError: If a file cannot be written, whichever process it is: in all of them.
    """
    _expect_no_group()
    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    try:
        save({}, storage_writer=writer, planner=snapshot, **_talking_in(group))
    except CheckpointException as error:
        raise _cause(error) from error


def own_file(folder: Path, rank: int) -> Path | None:
    """What process `rank` of those that wrote a folder wrote there; None if nothing fell to it."""
    return next(iter(folder.glob(f"shard-{rank + 1:05d}-*{SUFFIX}")), None)


def entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Size and type of the whole tensors in a folder, by name.

    Raises:
        DataError: If a file is no safetensors file.
    """
    try:
        found: Any = HuggingFaceStorageReader(str(folder)).read_metadata()
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{folder} is damaged: {error}") from error
    return found.state_dict_metadata


@torch.no_grad()
def read_into(
    folder: Path, targets: Mapping[str, Tensor], group: ProcessGroup | None = None
) -> None:
    """Copy tensors of a folder into those of the same names, in place.

    Args:
        folder: May hold more names.
        targets: Whole tensors or DTensors, on any device.
        group: The processes that read together, on the host; None if this one is alone.

    Raises:
        DataError: If a name is missing, or a file is no safetensors file.
        ValueError: If a shape differs.
    """
    _expect_no_group()
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    reader = HuggingFaceStorageReader(str(folder))
    try:
        load(dict(targets), storage_reader=reader, planner=planner, **_talking_in(group))
    except CheckpointException as error:
        cause = _cause(error)
        if isinstance(cause, OSError | ValueError):
            raise cause from error
        raise DataError(f"{folder} is damaged: {cause}") from error


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whole, on the host."""
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries(folder).items()
    }
    read_into(folder, tensors)
    return tensors


def _dealt(tensors: Mapping[str, Tensor], rank: int, num: int) -> list[str]:
    """Names of those that fall to a process; all processes deal alike, about as many bytes each."""
    mine, loads = [], [0] * num
    by_size = sorted(tensors, key=lambda name: (-tensors[name].nbytes, name))
    for position, name in enumerate(by_size):
        tensor = tensors[name]
        if isinstance(tensor, DTensor):
            if _is_first_holder(tensor, position):
                mine.append(name)
            continue
        owner = loads.index(min(loads))
        loads[owner] += tensor.nbytes
        if owner == rank:
            mine.append(name)
    return mine


def _is_first_holder(tensor: DTensor, position: int) -> bool:
    """Whether this process writes its part, of those that hold the same; they take turns."""
    mesh = tensor.device_mesh
    return all(
        mesh.get_local_rank(dim) == position % mesh.size(dim)
        for dim, placement in enumerate(tensor.placements)
        if placement.is_replicate()
    )


def _copied(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies, is_waiting = {}, False
    for name, values in parts.items():
        on_gpu = values.is_cuda
        place = torch.empty(values.shape, dtype=values.dtype, pin_memory=on_gpu)
        copies[name] = place.copy_(values, non_blocking=on_gpu)
        is_waiting |= on_gpu
    if is_waiting:
        torch.cuda.synchronize()
    return copies


def _talking_in(group: ProcessGroup | None) -> dict[str, Any]:
    return {"process_group": group, "no_dist": group is None}


def _expect_no_group() -> None:
    # A hint for those who forgot to set torch.distributed up. Not with `catch_warnings`, which
    # would undo what other threads do to the filters meanwhile.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong in the first process where something did; a full disk before all else."""
    failures = [(rank, failure[0]) for rank, failure in sorted(error.failures.items())]
    told = [each for each in failures if isinstance(each[1], OSError)] or failures
    rank, cause = told[0]
    cause.add_note(f"in process {rank} of those that share the checkpoint")
    return cause
