"""What the loop needs from an objective and from a source of batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor, nn

from rectiflow.data.draws import Draws

Batch = Mapping[
    str, Any
]  # tensors (batch, ...), things with `.to(device)`, and lists; "ids" is a list


@dataclass(frozen=True, slots=True)
class Terms:
    """Loss of a batch, sample by sample.

    Args:
        loss: What is minimised, with its gradient, float32, shape (batch,).
        t: Time of each sample, shape (batch,); None if the objective has no time.
        extra: Further per-sample terms to log, each (batch,), detached.
    """

    loss: Tensor
    t: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)


Model = TypeVar("Model", bound=nn.Module)


class Objective(ABC, Generic[Model]):
    """A model and the loss it is trained on.

    `loss` is a function of its arguments and the weights alone: all randomness comes from `draws`.
    """

    model: Model  # what is trained, checkpointed and averaged

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Terms:
        """Per-sample loss; called under autocast, in training mode, on the model's device."""

    def matrices(self) -> dict[str, int]:
        """Parameters that Muon takes, with the number of matrices stacked in each along its rows.

        By default the 2-D parameters of modules called `blocks` or `layers`; queries, keys and
        values stored as one matrix count as one each. Scales of norms are no matrices, however they
        are stored. Modulations are left to AdamW: the tiny model learned faster so, in shorter
        steps (docs/benchmarks.md).
        """
        return {
            name: max(1, len(p) // p.shape[1]) if "qkv" in name else 1
            for name, p in self.model.named_parameters()
            if p.ndim == 2
            and p.requires_grad
            and {"blocks", "layers"} & set(name.split("."))
            and "norm" not in name
            and "modulation" not in name
        }


@runtime_checkable
class BatchSource(Protocol):
    """Samples by global position; maps positions to its own samples through `data.order.Order`."""

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        ...

    def batch(self, positions: np.ndarray, draws: Draws) -> Batch:
        """Samples at `positions` (int64, (batch,)); a pure function of both arguments."""
        ...
