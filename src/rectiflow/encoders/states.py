"""What the three text encoders yield, and how SD3 joins it (arXiv 2403.03206, Sec. 4 and B.2).

    context = [ [clip_l || clip_g || zeros] ; t5 ]     || on channels, ; on the sequence axis
    pooled  = pooled_l || pooled_g

An encoder that is left out is zeros in its place, never a shorter sequence: that is what training
with text dropout shows the network.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from rectiflow.conditioning import Conditioning

ENCODERS = ("clip_l", "clip_g", "t5")
"""Names of the text encoders, in the order of `keep`."""


@dataclass(frozen=True)
class TextStates:
    """States of a batch of prompts, one field per part.

    Attributes:
        clip_l: Penultimate states of the first CLIP encoder.
        clip_g: Those of the second; as many tokens.
        t5: Final states of the T5 encoder.
        pooled_l: Projected state at the end of the text, first CLIP encoder.
        pooled_g: The same of the second.
    """

    clip_l: Float[Tensor, "batch clip_tokens width_l"]
    clip_g: Float[Tensor, "batch clip_tokens width_g"]
    t5: Float[Tensor, "batch t5_tokens width"]
    pooled_l: Float[Tensor, "batch pooled_width_l"]
    pooled_g: Float[Tensor, "batch pooled_width_g"]

    def __len__(self) -> int:
        return len(self.t5)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "TextStates":
        """The same states on another device or in another floating type."""
        return TextStates(
            **{f.name: getattr(self, f.name).to(device=device, dtype=dtype) for f in fields(self)}
        )

    def pin_memory(self) -> "TextStates":
        """The same states in memory that a CUDA device copies from by itself."""
        return TextStates(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


def assemble(
    states: TextStates,
    keep: Bool[Tensor, "batch encoders"] | None = None,
    *,
    without: Collection[str] = (),
) -> Conditioning:
    """Join the states as SD3 does; parts that are left out become zeros in their place.

    Args:
        states: Of one batch of prompts.
        keep: Which encoders each sample keeps, in the order of `ENCODERS`; None keeps all.
        without: Encoders to leave out of the whole batch.

    Raises:
        ValueError: If `without` names no encoder, or the CLIP states do not fit into T5's width.
    """
    if unknown := sorted(set(without) - set(ENCODERS)):
        raise ValueError(f"text encoders are {', '.join(ENCODERS)}, got {', '.join(unknown)}")
    if keep is None:
        keep = torch.ones(len(states), len(ENCODERS), dtype=torch.bool)
    present = torch.tensor([name not in without for name in ENCODERS])
    dropped = ~(keep.to(states.t5.device) & present.to(states.t5.device))
    drop_l, drop_g, drop_t5 = dropped.unbind(dim=1)
    clip = torch.cat([_zeroed(states.clip_l, drop_l), _zeroed(states.clip_g, drop_g)], dim=-1)
    room = states.t5.shape[-1] - clip.shape[-1]
    if room < 0:
        raise ValueError(f"CLIP states of width {clip.shape[-1]} exceed T5's {states.t5.shape[-1]}")
    clip = functional.pad(clip, (0, room))
    pooled = [_zeroed(states.pooled_l, drop_l), _zeroed(states.pooled_g, drop_g)]
    return Conditioning(
        context=torch.cat([clip, _zeroed(states.t5, drop_t5)], dim=1),
        pooled=torch.cat(pooled, dim=-1),
        segments=(clip.shape[1], states.t5.shape[1]),
    )


def _zeroed(values: Tensor, where: Bool[Tensor, " batch"]) -> Tensor:
    return values.masked_fill(where.reshape(-1, *(1,) * (values.ndim - 1)), 0)
