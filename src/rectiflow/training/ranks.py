"""The processes of a training job: who this one is, and what they tell each other."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
S = TypeVar("S", bound=Sequence[Any] | np.ndarray)


@dataclass(frozen=True)
class Ranks:
    """The processes of a job: who this one is, and the few things they say to each other.

    Values that processes exchange here are on the host; what is on the device goes through the
    mesh. A process that is alone talks to nobody: nothing here then touches `torch.distributed`.

    Args:
        rank: Of this process, in [0, num).
        num: Processes of the job.
        local_rank: Of this process on its machine.
        mesh: The processes by what they do: 1-D `("replicate",)` for DDP, `("shard",)` for FSDP2,
            2-D `("replicate", "shard")` for HSDP; None alone.
        host_group: Carries host values (gloo); None alone.
        write_group: The same, for the thread that writes checkpoints; None alone.
        reduce_precision: Type in which gradients travel, "fp32" or "bf16".
    """

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    mesh: DeviceMesh | None = None
    host_group: ProcessGroup | None = None
    write_group: ProcessGroup | None = None
    reduce_precision: str = "fp32"

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's folder and decides what the clock decides."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.num == 1

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, in all processes; it must be picklable."""
        if self.is_alone:
            return [value]
        found: list[Any] = [None] * self.num
        dist.all_gather_object(found, value, group=self.host_group)
        return found

    def first(self, value: T) -> T:
        """The value of rank 0, in all processes; what the others give is not looked at."""
        if self.is_alone:
            return value
        told: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(told, src=0, group=self.host_group)
        return told[0]

    def once(self, work: Callable[[], T]) -> T:
        """What `work` gives in rank 0, the only one to do it; its error is raised in all."""
        if self.is_alone:
            return work()
        told: tuple[Any, Exception | None] = (None, None)
        if self.is_first:
            try:
                told = (work(), None)
            except Exception as error:
                told = (None, portable(error))
        value, failure = self.first(told)
        if failure is not None:
            raise failure
        return cast("T", value)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums over the processes, float64, added in the order of ranks: the same bits in all."""
        return np.sum(self.gather(np.asarray(values, dtype=np.float64)), axis=0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    def share(self, values: S) -> S:
        """This process's part of `values`: contiguous, dealt as `numpy.array_split` deals."""
        size, more = divmod(len(values), self.num)
        start = self.rank * size + min(self.rank, more)
        part: Any = values[start : start + size + (self.rank < more)]
        return part


def portable(error: Exception) -> Exception:
    """An error as it can be told to other processes; one that cannot be made again by its text."""
    try:
        copy.deepcopy(error)  # by the same ways as pickling
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


ALONE = Ranks()
"""The one process of a job without others."""
