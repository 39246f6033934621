"""A job of several processes: joining it, and spreading its model over them.

Everything is `torch.distributed`'s: DDP keeps the model whole in every process, FSDP2
(`fully_shard`) splits it, HSDP splits it within a group and keeps a copy for each group.
"""

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import (
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    ProcessGroup,
    Store,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from rectiflow.data.draws import Draws
from rectiflow.errors import DivergenceError, LostRankError
from rectiflow.nn.regions import blocks_of
from rectiflow.training.heartbeat import Heartbeat
from rectiflow.training.objectives.base import Batch, Objective, Terms
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.settings.parallel import ParallelSettings
from rectiflow.training.settings.training import TrainingSettings

STUCK = timedelta(hours=1)
"""A process that beats but does not come to an exchange ends the job after so long."""

_REPLICATE, _SHARD = "replicate", "shard"


@dataclass(frozen=True)
class Place:
    """Where `torchrun` put this process: rank of num, local_rank of local_num on its machine."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0
    local_num: int = 1


def place_in(environment: Mapping[str, str]) -> Place:
    """The place that environment variables tell; without them the process is alone."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [environment.get(name) for name in names]
    if given[0] is None or given[1] is None:
        return Place()
    rank, num = int(given[0]), int(given[1])
    return Place(rank, num, int(given[2] or 0), int(given[3] or num))


@contextmanager
def joined(settings: ParallelSettings, device: torch.device) -> Iterator[Ranks]:
    """Be one of the processes that `torchrun` started; alone without it.

    Args:
        settings: The `parallel` section; `auto` is `ddp`.
        device: Kind of device to train on; each process of a machine takes the GPU of its
            local rank.

    Raises:
        ValueError: If the processes cannot be arranged as the settings say, or are more than the
            GPUs.
        LostRankError: If another process is dead or gone, in place of what it led to here.
    """
    place = place_in(os.environ)
    if place.num == 1:
        yield ALONE
        return
    layout = layout_of(settings, place)
    if device.type == "cuda":
        _take_gpu(place)
    store, _, _ = next(rendezvous("env://", place.rank, place.num, timeout=STUCK))
    beats = PrefixStore("heartbeat", cast("Any", store).clone())
    heartbeat = Heartbeat(beats, place.rank, place.num, settings.timeout_seconds)
    heartbeat.start()
    try:
        ranks = _ranks(store, place, device, layout, settings)
        yield ranks
        ranks.barrier()
    except BaseException as error:
        if reason := _lost(error, heartbeat):
            raise LostRankError(reason) from error
        raise
    else:
        heartbeat.stop()  # before rank 0 may end, and its store with it
        dist.destroy_process_group()
    finally:
        heartbeat.stop()


def _take_gpu(place: Place) -> None:
    if place.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"torchrun must start one process for each GPU of a machine, it started "
            f"{place.local_num} and there are {torch.cuda.device_count()} GPUs"
        )
    torch.cuda.set_device(place.local_rank)


def _lost(error: BaseException, heartbeat: Heartbeat) -> str | None:
    """Which process is to blame, if it is another; else the others are told of this one."""
    reason = heartbeat.culprit() if _is_of_an_exchange(error) else None
    if reason is None:
        heartbeat.tell(f"{heartbeat.my_name} ended: {type(error).__name__}: {error}")
    return reason


def _is_of_an_exchange(error: BaseException) -> bool:
    """Torch has no one class for a peer that is gone: gloo's are plain `RuntimeError`s."""
    if not isinstance(error, RuntimeError) or isinstance(error, DivergenceError):
        return False
    words = ("gloo", "connection", "nccl", "timed out", "peer", "store")
    return isinstance(error, dist.DistError) or any(w in str(error).lower() for w in words)


def layout_of(settings: ParallelSettings, place: Place) -> dict[str, int]:
    """Sizes of the mesh by name, for several processes.

    Raises:
        ValueError: If the settings do not suit them.
    """
    kind = "ddp" if settings.kind == "auto" else settings.kind
    if kind == "single":
        raise ValueError(
            f"parallel.kind must not be single for {place.num} processes; "
            "start it without torchrun, or give ddp, fsdp or hsdp"
        )
    if kind == "ddp":
        return {_REPLICATE: place.num}
    if kind == "fsdp":
        return {_SHARD: place.num}
    size = settings.shard_size or place.local_num
    if place.num % size:
        raise ValueError(
            f"parallel.shard_size must divide the {place.num} processes of the job, got {size}"
        )
    return {_REPLICATE: place.num // size, _SHARD: size}


def check_batch(training: TrainingSettings, ranks: Ranks) -> None:
    """Refuse a batch of which a process would get no sample."""
    least = ranks.num * training.num_microbatches
    if training.batch_size < least:
        raise ValueError(
            f"training.batch_size must be >= {least}, one sample for each of {ranks.num} processes "
            f"and {training.num_microbatches} microbatches, got {training.batch_size}"
        )


def _ranks(
    store: Store,
    place: Place,
    device: torch.device,
    layout: Mapping[str, int],
    settings: ParallelSettings,
) -> Ranks:
    is_cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        store=PrefixStore("job", store),
        rank=place.rank,
        world_size=place.num,
        timeout=STUCK,
        device_id=torch.device("cuda", place.local_rank) if is_cuda else None,
    )
    mesh = init_device_mesh(
        device.type, tuple(layout.values()), mesh_dim_names=tuple(layout.keys())
    )
    return Ranks(
        rank=place.rank,
        num=place.num,
        local_rank=place.local_rank,
        mesh=mesh,
        host_group=_host_group(),
        write_group=_host_group(),
        reduce_precision=settings.reduce_precision,
    )


def _host_group() -> ProcessGroup:
    return cast("ProcessGroup", dist.new_group(backend="gloo", timeout=STUCK))


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Split a model over processes, if it is to be; it stays the same object with the same names.

    Its parameters are DTensors afterwards, on the devices of the mesh, to which they go block by
    block: a model on the host is nowhere whole beside it. It is the same in all processes.

    Raises:
        ValueError: If it has no blocks, which are gathered one at a time.
    """
    if not is_split(ranks):
        return
    assert ranks.mesh is not None
    dtype = torch.bfloat16 if ranks.reduce_precision == "bf16" else None
    # Of a block that gives two parts of one sequence. Nobody writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(reduce_dtype=dtype, cast_forward_inputs=False)
    for module in (*blocks_of(model), model):
        # Also the rest of the model, or averages that take the weights' place would not be seen.
        fully_shard(module, mesh=ranks.mesh, mp_policy=policy, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Gradients are sums over the samples; gloo can form no means.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def is_split(ranks: Ranks) -> bool:
    """Whether the weights are split over processes."""
    return ranks.mesh is not None and _SHARD in (ranks.mesh.mesh_dim_names or ())


class Spread:
    """An objective's loss and its gradient, the sum of all processes' on each.

    Args:
        objective: Its model is where it trains, and split if it is to be (`shard`).
        ranks: The processes of the job.
    """

    def __init__(self, objective: Objective, ranks: Ranks) -> None:
        self._objective, self._ranks = objective, ranks
        self._wrapped: DistributedDataParallel | None = None
        if not ranks.is_alone and not is_split(ranks):
            self._wrapped = _wrapped(objective, ranks)

    def loss(self, batch: Batch, draws: Draws) -> Terms:
        """As the objective's, for this process's samples of a microbatch."""
        if self._wrapped is None:
            return self._objective.loss(batch, draws)
        return self._wrapped(batch, draws)

    def descend(self, loss: Tensor) -> None:
        """Add the gradient of a scalar; it is summed over the processes where `adding` is last."""
        # DDP divides by the number of processes.
        scale = 1 if self._wrapped is None else self._ranks.num
        (loss * scale if scale > 1 else loss).backward()

    def adding(self, is_last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of a microbatch: only after the last are sums exchanged.

        FSDP2 splits each microbatch's gradient at once: whole gradients would not fit.
        """
        if self._wrapped is not None:
            return nullcontext() if is_last else self._wrapped.no_sync()
        if isinstance(self._objective.model, FSDPModule):
            self._objective.model.set_requires_all_reduce(is_last)
        return nullcontext()


class _Loss(nn.Module):
    """An objective's loss as a module's forward pass, so that DDP serves any objective."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model
        self._loss = objective.loss

    def forward(self, batch: Batch, draws: Draws) -> Terms:
        return self._loss(batch, draws)


def _wrapped(objective: Objective, ranks: Ranks) -> DistributedDataParallel:
    assert ranks.mesh is not None
    # Tables of constants are all the buffers there are. The setting was renamed in torch 2.13.
    known = inspect.signature(DistributedDataParallel).parameters
    syncing = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    wrapped = DistributedDataParallel(
        _Loss(objective),
        device_mesh=ranks.mesh,
        gradient_as_bucket_view=True,
        **cast("Any", {syncing: False}),
    )
    if ranks.reduce_precision == "bf16":
        wrapped.register_comm_hook(ranks.mesh.get_group(), _mean_by_way_of_bf16)
    return wrapped


def _mean_by_way_of_bf16(
    group: ProcessGroup,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """What DDP does with a bucket of gradients, in bf16 while they travel; torch's needs NCCL."""
    sent = bucket.buffer().to(torch.bfloat16)
    work = dist.all_reduce(sent, group=group, async_op=True)
    assert work is not None

    def widen(done: torch.futures.Future[list[Tensor]]) -> Tensor:
        return bucket.buffer().copy_(done.value()[0]).div_(group.size())

    return work.get_future().then(widen)
