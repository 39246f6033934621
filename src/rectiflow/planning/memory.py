"""What one GPU holds while training, by part, however the run is spread. Loads no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from rectiflow.config import nearest

if TYPE_CHECKING:
    from rectiflow.planning.workload import Workload

Strategy = Literal["single", "ddp", "hsdp", "fsdp"]
STRATEGIES: Final[tuple[Strategy, ...]] = ("single", "ddp", "hsdp", "fsdp")
"""One GPU; weights on every GPU; sharded within a node, repeated over nodes; sharded over all."""

FLOAT32_BYTES: Final = 4
NUM_GATHERED: Final = 2
"""Blocks whose weights are whole on a GPU at once where they are sharded: one at work, the next."""

USABLE_SHARE: Final = 0.9
"""Of a GPU's memory; the rest is left to the context, workspaces and fragments. An assumption."""


def strategy_named(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        ValueError: If there is none; the nearest is suggested.
    """
    for strategy in STRATEGIES:
        if strategy == name:
            return strategy
    raise ValueError(
        f"unknown way to spread a run {name!r}; {nearest(name, ['auto', *STRATEGIES])}"
    )


def num_shards(strategy: Strategy, num_gpus: int, node_size: int) -> int:
    """Parts that the weights are cut into."""
    if strategy == "fsdp":
        return num_gpus
    return min(node_size, num_gpus) if strategy == "hsdp" else 1


def memory_parts(
    workload: "Workload",
    shards: int,
    microbatch: int,
    *,
    is_checkpointed: bool,
    is_one_pass: bool = False,
    optimizer: str = "adamw",
    num_averages: int = 1,
) -> Mapping[str, int]:
    """Bytes on one GPU during a step: master weights, gradients and averages in float32.

    Args:
        workload: The network on one sample.
        shards: Parts that the weights are cut into; 1 for none.
        microbatch: Samples in one forward pass.
        is_checkpointed: Whether blocks are computed anew in the backward pass.
        is_one_pass: Whether gradients come as activations go, in a step of one pass that has no
            place for them beforehand: `total` then counts the larger of the two.
        optimizer: `adamw`, two averages a weight; `muon`, one for the matrices of the blocks.
        num_averages: Averages of the weights that are kept beside them.

    Returns:
        `weights`, `gradients`, `optimizer`, `ema`; `copies`, in bf16 for autocast, and where
        weights are sharded the gathered blocks with their gradients; `activations`; and the most
        at once, `total`.

    Raises:
        ValueError: If the kind has no blocks to compute anew.
    """
    kept = workload.checkpointed_bytes if is_checkpointed else workload.kept_bytes
    if kept is None:
        raise ValueError(f"a {workload.kind} has no equal blocks to checkpoint")
    weights = FLOAT32_BYTES * workload.parameters
    averages = 2 * weights
    if optimizer == "muon":
        averages -= FLOAT32_BYTES * workload.muon_weights
    copies = workload.copy_bytes  # kept from the forward pass for the backward pass
    if shards > 1:
        if is_checkpointed:
            copies //= workload.num_blocks  # those of the block at work
        block = workload.parameters // workload.num_blocks
        copies += NUM_GATHERED * block * 2 * FLOAT32_BYTES
    parts = {
        "weights": weights // shards + workload.constant_bytes,
        "gradients": weights // shards,
        "optimizer": averages // shards,
        "ema": num_averages * weights // shards,
        "copies": copies,
        "activations": microbatch * kept,
    }
    total = sum(parts.values())
    if is_one_pass:
        total -= min(parts["gradients"], parts["copies"] + parts["activations"])
    return parts | {"total": total}
