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

    def tensors(self) -> dict[str, Tensor]:
        """All terms by name, as `of` takes them."""
        t = {} if self.t is None else {"t": self.t}
        return {"loss": self.loss, **t, **{f"extra.{k}": v for k, v in self.extra.items()}}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Terms":
        """The terms that `tensors` gave."""
        extra = {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")}
        return cls(tensors["loss"], tensors.get("t"), extra)

    def detached(self) -> "Terms":
        """The same values without their gradient."""
        return Terms.of({name: values.detach() for name, values in self.tensors().items()})


Model = TypeVar("Model", bound=nn.Module)

MATRIX_HOLDERS = {"blocks", "layers", "attentions", "transformer_blocks"}
"""Names of the modules whose matrices Muon takes; the last two are diffusers'."""


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

        By default the 2-D parameters of modules whose name is in `MATRIX_HOLDERS`; queries, keys
        and values stored as one matrix count as one each, and so do the two halves of a gated
        perceptron. Kernels of convolutions are no matrices, nor are scales of norms and tables of
        modulations, however they are stored. Modulations are left to AdamW: the tiny model learned
        faster so, in shorter steps (docs/benchmarks.md).
        """
        return {
            name: _num_stacked(name, p)
            for name, p in self.model.named_parameters()
            if p.ndim == 2
            and p.requires_grad
            and MATRIX_HOLDERS & set(name.split("."))
            and not any(word in name for word in ("norm", "modulation", "scale_shift_table"))
        }


def _num_stacked(name: str, matrix: Tensor) -> int:
    rows, columns = matrix.shape
    if "kv" in name:  # queries, keys and values, or keys and values
        return max(1, rows // columns)
    # diffusers' gated perceptron: the values, then their gates, 4 times as wide as the token each.
    return 2 if name.endswith("ff.net.0.proj.weight") and rows == 8 * columns else 1


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
