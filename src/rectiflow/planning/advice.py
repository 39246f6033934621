"""Which way to spread a run over GPUs: all are played through, the fastest that fits is taken.

From the simplest: one GPU, DDP, HSDP (FSDP2 within a node, copies over nodes), FSDP2 over all.
Loads no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rectiflow.planning.gpus import Gpu
from rectiflow.planning.memory import (
    STRATEGIES,
    USABLE_SHARE,
    Strategy,
    memory_parts,
    num_shards,
)
from rectiflow.planning.simulation import Step, simulate

if TYPE_CHECKING:
    from rectiflow.planning.workload import Workload

SAME: Final = 1.02
"""Of two ways that take as long to this factor, the simpler is taken."""

SAME_SECONDS: Final = 0.005
"""So are ways that differ by less: launches of kernels, not modelled, would decide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What a run is spread over, and how it computes.

    Args:
        gpu: Kind of device.
        num_gpus: Devices.
        batch: Samples of one optimizer step, over all devices.
        optimizer: `adamw` or `muon`.
        num_averages: Averages of the weights that are kept beside them.
        is_compiled: Whether operations between the products are fused.
        efficiency: Share of the peak in place of the model's; None for the model's.
        microbatch: Samples in one forward pass on one device; None for the most that fit.
        is_checkpointed: Whether blocks are computed anew in the backward pass; None for whatever
            is faster.

    Raises:
        ValueError: If the batch cannot be dealt out evenly, or a number is out of range.
    """

    gpu: Gpu
    num_gpus: int
    batch: int
    optimizer: str = "adamw"
    num_averages: int = 1
    is_compiled: bool = True
    efficiency: float | None = None
    microbatch: int | None = None
    is_checkpointed: bool | None = None

    def __post_init__(self) -> None:
        if self.num_gpus < 1:
            raise ValueError(f"gpus must be >= 1, got {self.num_gpus}")
        if self.batch < 1 or self.batch % self.num_gpus:
            raise ValueError(
                f"the batch must be a multiple of the number of GPUs, got a batch of {self.batch} "
                f"on {self.num_gpus} GPUs"
            )
        if self.efficiency is not None and not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency must be in (0, 1], got {self.efficiency}")

    @property
    def per_gpu(self) -> int:
        """Samples of one step on one device."""
        return self.batch // self.num_gpus

    @property
    def usable_bytes(self) -> float:
        """Memory of one device that a plan may fill."""
        return USABLE_SHARE * self.gpu.memory_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to run a step, played through.

    Args:
        strategy: How weights and gradients are spread.
        num_gpus: Devices; 1 for `single`, which is there for comparison on larger clusters.
        microbatch: Samples in one forward pass on one device.
        num_microbatches: Passes of one step.
        is_checkpointed: Whether blocks are computed anew in the backward pass.
        memory: Bytes on one device by part.
        fits: Whether they fit.
        step: Seconds of one step.
    """

    strategy: Strategy
    num_gpus: int
    microbatch: int
    num_microbatches: int
    is_checkpointed: bool
    memory: Mapping[str, int]
    fits: bool
    step: Step

    @property
    def images_per_second(self) -> float:
        """Of all its devices together."""
        return self.num_gpus * self.microbatch * self.num_microbatches / self.step.seconds


def ways_of(workload: "Workload", cluster: Cluster) -> list[Way]:
    """The best way of every strategy that the cluster allows, the simplest first.

    Of each, where the cluster leaves it open: the largest microbatch that fits, checkpointed or
    not, whichever is faster; where nothing fits, what holds least.
    """
    return [_way(workload, cluster, strategy) for strategy in _possible(cluster)]


def advised(ways: Sequence[Way], num_gpus: int, strategy: Strategy | None = None) -> Way:
    """The way to take: the fastest on all GPUs that fits, or that of a given strategy.

    Raises:
        ValueError: If none fits, or the strategy is not possible.
    """
    able = [way for way in ways if way.num_gpus == num_gpus]
    if strategy is not None:
        able = [way for way in able if way.strategy == strategy]
        if not able:
            raise ValueError(f"{strategy} does not suit {num_gpus} GPUs of this kind")
    fitting = [way for way in able if way.fits]
    if not fitting:
        least = min(able, key=lambda way: way.memory["total"])
        samples = "one sample" if least.microbatch == 1 else f"{least.microbatch} samples"
        raise ValueError(
            f"nothing fits: at {samples} a pass a GPU would hold at least "
            f"{least.memory['total'] / 1e9:.1f} GB; take more GPUs or larger ones"
        )
    fastest = min(way.step.seconds for way in fitting)
    bound = max(SAME * fastest, fastest + SAME_SECONDS)
    return next(way for way in fitting if way.step.seconds <= bound)


def reasons(best: Way, ways: Sequence[Way], usable_bytes: float) -> list[str]:
    """Why this way and none of the others, a sentence each."""
    step = best.step
    hidden = 1 - step.exposed / step.communicating if step.communicating else 1.0
    told = [
        f"{best.strategy} holds {best.memory['total'] / 1e9:.1f} of {usable_bytes / 1e9:.1f} GB "
        f"that a GPU may fill, {best.microbatch} samples a pass"
        + (", blocks computed anew in the backward pass" if best.is_checkpointed else "")
    ]
    if step.communicating:
        told[0] += f"; {max(0.0, hidden):.0%} of its {step.communicating:.3g} s of exchange a step "
        told[0] += "is hidden behind computing"
    for way in ways:
        if way is best or way.num_gpus != best.num_gpus:
            continue
        if not way.fits:
            told.append(f"{way.strategy} would hold {way.memory['total'] / 1e9:.1f} GB")
        else:
            ratio = way.step.seconds / step.seconds
            told.append(f"{way.strategy} takes {ratio:.2f} times as long")
    return told


def _possible(cluster: Cluster) -> list[Strategy]:
    """One GPU always, for comparison; HSDP on whole nodes, two at least."""
    if cluster.num_gpus == 1:
        return ["single"]
    size = cluster.gpu.node_size
    has_nodes = size > 1 and cluster.num_gpus > size and cluster.num_gpus % size == 0
    return [each for each in STRATEGIES if each != "hsdp" or has_nodes]


def _way(workload: "Workload", cluster: Cluster, strategy: Strategy) -> Way:
    num_gpus = 1 if strategy == "single" else cluster.num_gpus
    choices = [False] if workload.checkpointed_bytes is None else [False, True]
    if cluster.is_checkpointed is not None:
        choices = [cluster.is_checkpointed]
    found = [_largest(workload, cluster, strategy, num_gpus, each) for each in choices]
    fitting = [way for way in found if way.fits]
    if not fitting:
        return min(found, key=lambda way: way.memory["total"])
    return min(fitting, key=lambda way: way.step.seconds)


def _largest(
    workload: "Workload", cluster: Cluster, strategy: Strategy, num_gpus: int, checkpointed: bool
) -> Way:
    """With the largest microbatch that fits, or of one sample; or with the one that is given."""
    gpu, shards = cluster.gpu, num_shards(strategy, num_gpus, cluster.gpu.node_size)

    def memory_of(microbatch: int) -> Mapping[str, int]:
        return memory_parts(
            workload,
            shards,
            microbatch,
            is_checkpointed=checkpointed,
            # DDP keeps the places of all gradients, in which they travel.
            is_one_pass=strategy != "ddp" and microbatch == cluster.per_gpu,
            optimizer=cluster.optimizer,
            num_averages=cluster.num_averages,
        )

    even = (n for n in range(cluster.per_gpu, 0, -1) if cluster.per_gpu % n == 0)
    fitting = (n for n in even if memory_of(n)["total"] <= cluster.usable_bytes)
    microbatch = cluster.microbatch or next(fitting, 1)
    memory = memory_of(microbatch)
    num = -(-cluster.per_gpu // microbatch)
    step = simulate(
        workload,
        gpu,
        strategy,
        num_gpus,
        microbatch,
        num,
        optimizer=cluster.optimizer,
        is_checkpointed=checkpointed,
        is_compiled=cluster.is_compiled,
        efficiency=cluster.efficiency,
    )
    return Way(
        strategy=strategy,
        num_gpus=num_gpus,
        microbatch=microbatch,
        num_microbatches=num,
        is_checkpointed=checkpointed,
        memory=memory,
        fits=memory["total"] <= cluster.usable_bytes,
        step=step,
    )
