"""A flow's network made ready to train fast: fp8, activation checkpointing, compiled blocks."""

import os
import shutil
from importlib.util import find_spec

import torch
from torch import nn

from rectiflow.nn.recompute import forget_activations
from rectiflow.nn.regions import blocks_of, compile_blocks
from rectiflow.training.settings.speed import SpeedSettings

MIN_FP8_SIDE = 1536
"""Products with a shorter side lose more by scaling to fp8 than they win (torchao's measurements
and https://github.com/pytorch/ao/tree/main/torchao/float8)."""
MIN_FP8_CAPABILITY = (8, 9)


def prepare_network(network: nn.Module, speed: SpeedSettings, device: torch.device) -> None:
    """Apply `training.speed` to a network in place, which is to train on a device.

    It stays the same object with the same names and weights. To be called before the network is
    sharded or wrapped: shards are gathered outside what is forgotten, and that is inside what is
    compiled.

    Raises:
        ValueError: If the network has no blocks, or this machine cannot do what is asked.
    """
    if speed == SpeedSettings():
        return
    blocks = blocks_of(network)
    if speed.fp8:
        _require_fp8(device)
        use_fp8(blocks)
    if speed.activation_checkpointing != "none":
        forget_activations(network, speed.activation_checkpointing, speed.activation_budget)
    if speed.compile == "blocks":
        _require_compiler(device)
        compile_blocks(blocks)


def use_fp8(blocks: list[nn.Module], *, is_emulated: bool = False) -> int:
    """Let the large products of the blocks, forward and backward, be of float8 numbers.

    Scaled per tensor, dynamically; weights and results keep their types. Left out: products with a
    side below `MIN_FP8_SIDE` or no multiple of 16, modulations, and the text of an MM-DiT's last
    block.

    Args:
        blocks: Whose linear layers are replaced, in place; weights are shared, names stay.
        is_emulated: Whether to compute in the usual precision on numbers rounded to fp8, which
            needs no GPU.

    Returns:
        How many layers were replaced.

    Raises:
        ValueError: If torchao is missing or no layer is large enough.
    """
    if find_spec("torchao") is None:
        raise ValueError("training.speed.fp8 needs torchao: pip install 'rectiflow[fp8]'")
    from torchao.float8 import (  # pyright: ignore[reportMissingImports]
        Float8LinearConfig,
        convert_to_float8_training,
    )

    chosen = {layer for block in blocks for layer in block.modules() if _suits_fp8(layer)}
    if not chosen:
        raise ValueError(
            f"training.speed.fp8 needs a product of {MIN_FP8_SIDE} x {MIN_FP8_SIDE} or more, "
            "the network has none"
        )
    config = Float8LinearConfig(emulate=is_emulated)
    for block in blocks:
        convert_to_float8_training(
            block, config=config, module_filter_fn=lambda layer, _: layer in chosen
        )
    return len(chosen)


def _suits_fp8(layer: nn.Module) -> bool:
    if type(layer) is not nn.Linear:  # subclasses compute in a way of their own
        return False
    sides = layer.weight.shape
    return min(sides) >= MIN_FP8_SIDE and all(side % 16 == 0 for side in sides)


def _require_fp8(device: torch.device) -> None:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < MIN_FP8_CAPABILITY:
        needed = ".".join(map(str, MIN_FP8_CAPABILITY))
        raise ValueError(
            f"training.speed.fp8 needs a GPU of compute capability >= {needed}, got {device}"
        )


def _require_compiler(device: torch.device) -> None:
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ValueError(
            "training.speed.compile needs a C++ compiler on a CPU: install g++ or set CXX"
        )
