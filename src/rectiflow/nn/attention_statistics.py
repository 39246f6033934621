"""Logits and entropy of attention, of any network that calls torch's attention in float32."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class AttentionStatistics:
    """Of one attention, over all samples, heads and queries.

    Args:
        logit_max: Largest logit, q k / sqrt(head_width).
        entropy: Mean entropy of what a query attends to, in nats: 0 of one key, ln n of n alike.
    """

    logit_max: float
    entropy: float


class AttentionWatch(TorchFunctionMode):
    """While entered, notes the statistics of every attention, in the order in which they run.

    Attention in bf16 on a CPU does not call torch's; so enter it with autocast off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[AttentionStatistics] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            self.seen.append(_of_call(*args, **kwargs))
        return func(*args, **kwargs)


def _of_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionStatistics:
    assert not is_causal, "the networks here attend in both directions"
    assert not enable_gqa, "the networks here have as many heads of keys as of queries"
    return attention_statistics(query, key, attn_mask, scale)


@torch.no_grad()
def attention_statistics(
    query: Tensor, key: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> AttentionStatistics:
    """Statistics of the attention of `query` to `key`, one sample and head at a time.

    Args:
        query: Shape (batch, heads, queries, head_width).
        key: Shape (batch, heads, keys, head_width).
        mask: As torch's attention takes it: true where a key is seen, or added to the logits.
        scale: Of the logits; head_width^-1/2 by default.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    shape = (*query.shape[:3], key.shape[2])
    masks = None if mask is None else mask.expand(shape)
    largest, entropy = [], []
    for i in range(shape[0]):
        for head in range(shape[1]):
            logits = (query[i, head].float() @ key[i, head].float().T) * factor
            if masks is not None:
                logits = _masked(logits, masks[i, head])
            largest.append(logits.max())
            entropy.append(torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1).mean())
    return AttentionStatistics(
        float(torch.stack(largest).max()), float(torch.stack(entropy).double().mean())
    )


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, -torch.inf)
    return logits + mask.float()
