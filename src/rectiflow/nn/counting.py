"""Counts of a network by running it on the meta device: shapes without numbers or memory."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from rectiflow.conditioning import Conditioning
from rectiflow.nn.products import Products


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The network that `build` makes, without weights."""
    with torch.device("meta"):
        return build().to("meta")


def parameters_of(network: nn.Module) -> int:
    """Learned numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def products_of(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> Products:
    """Products of one sample, by torch's counter over a forward and a backward pass.

    There attention is a pair of batched products, which no layer is.

    Args:
        network: On the meta device.
        height: Rows of the latent.
        width: Columns of the latent.
        segments: Tokens of each group of text encoders.
    """
    forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with both:
        with forward:
            output = _forward(network, height, width, segments)
        output.backward(torch.empty_like(output))
    flops, by_kind = forward.get_total_flops(), forward.get_flop_counts()["Global"]
    attention = by_kind.get(torch.ops.aten.bmm, 0)
    return Products(
        layers=(flops - attention) // 2,
        attention=attention // 2,
        first=(3 * flops - both.get_total_flops()) // 2,
    )


def flops_of(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> int:
    """Floating-point operations of one sample's forward pass, those of attention included.

    A multiply-add is two. Matrix products and convolutions only, by torch's counter. Arguments as
    in `products_of`.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        _run(network, height, width, segments)
    return counter.get_total_flops()


def layer_macs_of(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> int:
    """Multiply-adds in linear and convolution layers of one sample's forward pass.

    What arXiv:2404.02883 counts: without the two products inside attention, which have no weights.
    Layers are counted where they are called as modules, as in the networks that diffusers computes.
    Of blocks in a row that are alike one is run, and counted as often as there are blocks.
    Arguments as in `products_of`.
    """
    total, repeats = 0, dict[nn.Module, int]()

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += repeats.get(layer, 1) * output.numel() * layer.weight[0].numel()  # pyright: ignore

    layers = [each for each in network.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    rows = [(m, m.transformer_blocks) for m in network.modules() if _has_blocks_alike(m)]
    try:
        for holder, blocks in rows:
            repeats |= dict.fromkeys(blocks[0].modules(), len(blocks))  # pyright: ignore
            holder.transformer_blocks = blocks[:1]  # pyright: ignore
        _run(network, height, width, segments)
    finally:
        for holder, blocks in rows:
            holder.transformer_blocks = blocks
        for handle in handles:
            handle.remove()
    return total


def _has_blocks_alike(module: nn.Module) -> bool:
    """Whether diffusers' `transformer_blocks` of this module have the same weights by shape."""
    blocks = getattr(module, "transformer_blocks", ())
    shapes = [[(name, p.shape) for name, p in block.named_parameters()] for block in blocks]
    return len(shapes) > 1 and all(each == shapes[0] for each in shapes)


def saved_bytes_of(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> int:
    """What one sample's forward pass keeps for the backward pass, in bytes, all in float32.

    With an attention that keeps no matrix of weights, as on CPUs and GPUs; the one of the meta
    device keeps it. Weights are left out. Arguments as in `products_of`.
    """
    with _FusedAttention():
        return bytes_kept_by(lambda: _forward(network, height, width, segments), network)


def bytes_kept_by(run: Callable[[], Any], network: nn.Module) -> int:
    """What a forward pass keeps for its backward pass, in bytes, but for the network's weights.

    Every stored tensor counts once, however often it is used.

    Args:
        run: The forward pass; returns its result.
        network: The network that it runs.
    """
    sizes: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()
    del output  # until here the graph held every storage, so that no two had the same address
    return sum(sizes.values())


def held_bytes(run: Callable[[], Any]) -> int:
    """What lives on in memory of what `run` made, as long as its result does, in bytes.

    Of a forward pass: what the backward pass needs, also where blocks forget their activations,
    and the result. Nothing of compiled code is seen.
    """
    with _Storages() as storages:
        output = run()
    gc.collect()  # what only cycles hold is no one's
    held = storages.held()
    del output
    return held


def held_bytes_of(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> int:
    """`held_bytes` of one sample's forward pass, in float32; arguments as in `products_of`."""
    with _FusedAttention():
        return held_bytes(lambda: _forward(network, height, width, segments))


class _Storages(TorchDispatchMode):
    """Notes the memory of every result, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        # By address, which nothing else takes while there is a weak reference.
        self._noted: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._note((args, kwargs), is_new=False)
        result = func(*args, **kwargs)
        self._note(result, is_new=True)
        return result

    def _note(self, tree: Any, is_new: bool) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                nbytes = storage.nbytes() if is_new else 0
                self._noted.setdefault(storage._cdata, (StorageWeakRef(storage), nbytes))

    def held(self) -> int:
        return sum(nbytes for storage, nbytes in self._noted.values() if not storage.expired())


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps queries, keys, values and result, and no matrix of weights."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is nn.functional.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attend(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    return _Attention.apply(query, key, value)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    """The shape of the result and what is kept; there are no numbers on the meta device."""

    @staticmethod
    def forward(ctx, query, key, value):
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result


@torch.no_grad()
def _run(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> None:
    _forward(network, height, width, segments)


def _forward(network: nn.Module, height: int, width: int, segments: tuple[int, ...]) -> Any:
    config = network.config
    with torch.device("meta"):
        x = torch.empty(1, config.latent_channels, height, width)  # pyright: ignore
        context = torch.empty(1, sum(segments), config.context_width)  # pyright: ignore
        pooled = torch.empty(1, config.pooled_width)  # pyright: ignore
        return network(x, torch.empty(1), Conditioning(context, pooled, segments))
