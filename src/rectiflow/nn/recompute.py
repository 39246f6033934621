"""Activation checkpointing: blocks that forget what they computed, and compute it again."""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from rectiflow.nn import kernels  # noqa: F401  registers an operation named below
from rectiflow.nn.counting import held_bytes_of, on_meta
from rectiflow.nn.regions import blocks_of

TEXT_TOKENS = (77, 77)  # of the sample that activations are counted of

Policy = Literal["selective", "full"]

_ATEN = torch.ops.aten
KEPT = [  # what a selective block keeps: the dear results, a few numbers per token
    _ATEN.mm.default,
    _ATEN.addmm.default,
    torch.ops.rectiflow.linear_of_few.default,
    _ATEN.convolution.default,
    _ATEN._scaled_mm.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
]


def forget_activations(network: nn.Module, policy: Policy, budget: float = 0.0) -> int:
    """Have blocks compute their activations again in the backward pass, in place.

    Args:
        network: One of `backbones`.
        policy: `full` keeps the input of a block; `selective` also what its products with weights
            and its attention put out, so that only cheap things are done twice.
        budget: Share of what the network keeps for the backward pass that it may keep now, counted
            in float32 at its base size; as many blocks as that takes, evenly spread, forget. All
            do where that is not enough.

    Returns:
        How many forget.
    """
    num = len(blocks_of(network)) if budget == 0.0 else _least_that_fit(network, policy, budget)
    _forget_in(network, policy, num)
    return num


def _forget_in(network: nn.Module, policy: Policy, num: int) -> None:
    """In `num` of the blocks, evenly spread."""
    blocks: list[Any] = blocks_of(network)
    for k in range(num):
        block = blocks[(2 * k + 1) * len(blocks) // (2 * num)]
        block.forward = _Recomputed(block.forward, policy)


def _least_that_fit(network: Any, policy: Policy, budget: float) -> int:
    """How many blocks must forget so that the rest fits; all if it never does."""

    def held(num: int) -> int:
        twin = on_meta(partial(type(network), network.config))
        _forget_in(twin, policy, num)
        side = network.config.base_latent_side
        return held_bytes_of(twin, side, side, TEXT_TOKENS)

    allowed, numbers = budget * held(0), range(len(blocks_of(network)))
    return bisect_left(numbers, True, key=lambda num: held(num) <= allowed)


class _Recomputed:
    """The forward pass of a block under checkpointing; copied together with its block."""

    def __init__(self, forward: Callable[..., Any], policy: Policy) -> None:
        self._forward = forward
        self._is_selective = policy == "selective"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        settings: Any = {"use_reentrant": False, "preserve_rng_state": False}  # none is drawn
        if self._is_selective:
            settings["context_fn"] = _keeping_products
        return checkpoint(self._forward, *args, **settings, **kwargs)


def _keeping_products() -> Any:
    return create_selective_checkpoint_contexts(KEPT)
