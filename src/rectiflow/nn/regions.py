"""The repeated parts of a network, of any kind: what is compiled, forgotten and sharded as one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

GRAPHS_PER_BLOCK = 64
"""Forms of a block that are compiled before torch gives up: shapes, last block, with gradient."""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a network, or the levels of a UNet, first to last.

    Raises:
        ValueError: If it has none.
    """
    inner = getattr(network, "inner", network)  # diffusers' networks are wrapped
    if hasattr(inner, "mid_block"):
        return [*inner.down_blocks, inner.mid_block, *inner.up_blocks]  # pyright: ignore
    blocks = getattr(inner, "blocks", getattr(inner, "transformer_blocks", None))
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"training.speed needs a network with blocks, {type(network).__name__} has none"
        )
    return list(blocks)


def compile_blocks(blocks: Sequence[nn.Module], backend: str = "inductor") -> None:
    """Compile each block in place: it keeps its name, its weights and its hooks.

    Blocks that are alike share a graph; another shape, or a pass without gradient, has its own.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, GRAPHS_PER_BLOCK)
    # DDP's buckets are ready between blocks; torch would cut each block's graph to their size.
    config.optimize_ddp = False
    for block in blocks:
        block.compile(fullgraph=True, dynamic=False, backend=backend)


def uncompiled(network: nn.Module) -> AbstractContextManager[None]:
    """While entered, compiled blocks run line by line, so that hooks and modes see inside."""
    if all(module._compiled_call_impl is None for module in network.modules()):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
