"""The `training.speed` section: how the same steps are taken faster, or in less memory."""

from dataclasses import dataclass, field
from typing import Literal

from rectiflow.config import FREE, STRICT
from rectiflow.training.settings.bounds import within


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedSettings:
    """Levers of speed and memory, of a flow's network; `rectiflow bench train` measures each.

    All but `fp8` change no more of what is computed than roundings: a run may resume with others.

    Args:
        compile: Whether the blocks are compiled, one graph for each shape of a batch; the first
            steps then take minutes.
        activation_checkpointing: What a block forgets in the forward pass and computes again in the
            backward pass: nothing, all but what its products and attention put out, or all but its
            input. On one machine and uncompiled, the gradients are the same bit for bit.
        activation_budget: Share of the activations that may be kept: as many blocks as that takes,
            evenly spread, forget theirs; 0 lets all of them.
        fp8: Whether the products of the blocks with both sides of the weight at 1536 or more are
            of 8-bit numbers, scaled per tensor (torchao; GPUs with compute capability >= 8.9).
    """

    __pydantic_config__ = STRICT

    compile: Literal["none", "blocks"] = field(default="none", metadata=FREE)
    activation_checkpointing: Literal["none", "selective", "full"] = field(
        default="none", metadata=FREE
    )
    activation_budget: float = field(default=0.0, metadata=FREE)
    fp8: bool = False

    def __post_init__(self) -> None:
        within("activation_budget", self.activation_budget, 0, 1)
        if self.activation_budget and self.activation_checkpointing == "none":
            raise ValueError(
                "activation_budget must be 0 where activation_checkpointing is none, "
                f"got {self.activation_budget}"
            )
