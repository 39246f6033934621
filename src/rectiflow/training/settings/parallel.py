"""The `parallel` section of every recipe: how a run is spread over processes."""

from dataclasses import dataclass, field
from typing import Literal

from rectiflow.config import FREE, STRICT
from rectiflow.training.settings.bounds import at_least

Kind = Literal["auto", "single", "ddp", "fsdp", "hsdp"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelSettings:
    """How a run is spread over the processes that `torchrun` starts, one for each GPU.

    Nothing here is part of what is computed: a run may go on with another kind and on another
    number of processes. Without `torchrun` there is one process, and every kind is `single`.

    Args:
        kind: `ddp` keeps the weights whole on every GPU; `fsdp` (FSDP2) splits weights, gradients
            and averages over all of them; `hsdp` splits them over `shard_size` GPUs and keeps a
            copy for each such group; `single` refuses more than one process. `auto` is `ddp` on
            CPUs, and on GPUs what a plan advises for the microbatches of the recipe.
        timeout_seconds: A process that was not heard of for so long is dead, and ends the job.
        shard_size: Processes that share one copy of the weights under `hsdp`; 0 is those of a
            machine.
        reduce_precision: Type in which gradients travel: bf16 halves what is sent, rounds each
            gradient and so changes the numbers in their third digit.
    """

    __pydantic_config__ = STRICT

    kind: Kind = field(default="auto", metadata=FREE)
    timeout_seconds: float = field(default=120.0, metadata=FREE)
    shard_size: int = field(default=0, metadata=FREE)
    reduce_precision: Precision = field(default="fp32", metadata=FREE)

    def __post_init__(self) -> None:
        at_least("timeout_seconds", self.timeout_seconds, 1)
        at_least("shard_size", self.shard_size, 0)
        if self.shard_size and self.kind not in ("auto", "hsdp"):
            raise ValueError(
                f"shard_size must be 0 unless kind is hsdp, got {self.shard_size} with kind "
                f"{self.kind}"
            )
