"""What the text encoders hand to a network: the one interface between the two.

A prompt becomes a sequence of states (`context`) and one vector (`pooled`). The sequence is made
of one group of tokens per kind of text encoder, in the order of SD3 (arXiv:2403.03206, Sec. 4):
first the CLIP tokens, then the T5 tokens. `segments` remembers where one group ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Text for one batch of samples.

    Args:
        context: States of the text tokens, shape (batch, tokens, width).
        pooled: One vector for the whole text, shape (batch, pooled_width).
        segments: Number of tokens of each encoder group, in order; they sum to `tokens`. Static:
            every sample of a batch has the same.

    Raises:
        ValueError: If batch sizes differ or the segments do not sum to the number of tokens.
    """

    context: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled_width"]
    segments: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.context.ndim != 3 or self.pooled.ndim != 2:
            raise ValueError(
                "context must be (batch, tokens, width) and pooled (batch, width), "
                f"got {tuple(self.context.shape)} and {tuple(self.pooled.shape)}"
            )
        if len(self.context) != len(self.pooled):
            raise ValueError(
                f"context holds {len(self.context)} samples, pooled {len(self.pooled)}"
            )
        if sum(self.segments) != self.context.shape[1]:
            raise ValueError(
                f"segments {self.segments} must sum to the {self.context.shape[1]} tokens"
            )

    def __len__(self) -> int:
        return len(self.context)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Conditioning":
        """The same text on another device or in another floating type."""
        return replace(
            self,
            context=self.context.to(device=device, dtype=dtype),
            pooled=self.pooled.to(device=device, dtype=dtype),
        )

    def select(self, index: slice | Sequence[int] | Tensor) -> "Conditioning":
        """The samples named by `index` (a slice, positions, or a mask over the batch)."""
        rows = index if isinstance(index, slice) else torch.as_tensor(index)
        return replace(self, context=self.context[rows], pooled=self.pooled[rows])


def cat(*parts: Conditioning) -> Conditioning:
    """Join texts along the batch, in the order given.

    Raises:
        ValueError: If there is nothing to join or the segments differ.
    """
    if not parts:
        raise ValueError("cat needs at least one Conditioning, got none")
    segments = {part.segments for part in parts}
    if len(segments) > 1:
        raise ValueError(f"parts must have equal segments, got {sorted(segments)}")
    return Conditioning(
        context=torch.cat([part.context for part in parts]),
        pooled=torch.cat([part.pooled for part in parts]),
        segments=parts[0].segments,
    )


def zeros_like(cond: Conditioning) -> Conditioning:
    """Text of the same shape that says nothing: what training with text dropout shows at times."""
    nothing = torch.zeros_like(cond.context), torch.zeros_like(cond.pooled)
    return Conditioning(*nothing, segments=cond.segments)
