"""What the loop needs from an objective and from a source of batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

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


class Objective(ABC):
    """A model and the loss it is trained on.

    `loss` is a function of its arguments and the weights alone: all randomness comes from `draws`.
    """

    model: nn.Module  # what is trained, checkpointed and averaged

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Terms:
        """Per-sample loss; called under autocast, in training mode, on the model's device."""

    def matrices(self) -> Iterable[str]:
        """Names of the 2-D parameters that Muon takes: the matrices of the blocks."""
        return [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.ndim == 2 and ("blocks." in name or "layers." in name)
        ]


class BatchSource(Protocol):
    """Samples by global position; maps positions to its own samples through `data.order.Order`."""

    @property
    def num_samples(self) -> int:
        """Samples of one epoch."""
        ...

    def batch(self, positions: np.ndarray, draws: Draws) -> Batch:
        """Samples at `positions` (int64, (batch,)); a pure function of both arguments."""
        ...
