"""One network at one size of picture, as the cost model sees it: numbers, no weights."""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from rectiflow.nn.backbones import backbone_of
from rectiflow.nn.counting import on_meta, saved_bytes_of
from rectiflow.nn.cross_dit import CrossDiTConfig
from rectiflow.nn.dit import DiTConfig
from rectiflow.nn.memory import BF16_BYTES, FLOAT32_BYTES, training_bytes
from rectiflow.nn.mmdit import MMDiTConfig
from rectiflow.nn.pixart import PixArtConfig
from rectiflow.nn.products import Products
from rectiflow.nn.uvit import UViTConfig

AUTOCAST_SHARE = 0.65
"""Bytes kept for the backward pass under autocast to bf16, in units of those kept in float32: the
MM-DiT's (62 of 96 per channel, with QK norm), taken for kinds that are counted in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What one sample costs and what the network is made of.

    Args:
        kind: Kind of backbone.
        parameters: Learned numbers.
        products: Multiply-adds of one sample.
        num_blocks: Parts that are gathered one by one where weights are sharded; taken as equal.
        kept_bytes: What a sample keeps for the backward pass, under autocast to bf16.
        checkpointed_bytes: The same where only what enters a block is kept and blocks are computed
            anew in the backward pass; None for a kind without equal blocks.
        is_estimate: Whether these bytes are estimates by the MM-DiT's proportion.
        copy_bytes: Copies of the weights in bf16 for autocast.
        constant_bytes: Constants, the table of positions.
        muon_weights: Weights that Muon takes, those of the blocks' matrices.
        width: Channels of a token; 0 for a kind of many widths.
    """

    kind: str
    parameters: int
    products: Products
    num_blocks: int
    kept_bytes: int
    checkpointed_bytes: int | None
    is_estimate: bool
    copy_bytes: int
    constant_bytes: int
    muon_weights: int
    width: int


@cache
def workload_of(config: Any, latent_side: int, segments: tuple[int, ...]) -> Workload:
    """The workload of a network on square latents.

    Args:
        config: Configuration of any backbone.
        latent_side: Rows and columns of the latent.
        segments: Text tokens, by group of encoders.

    Raises:
        ValueError: If the network does not take latents of this side.
    """
    _check_side(config, latent_side)
    backbone = backbone_of(config)
    products = backbone.products(config, latent_side, latent_side, segments)
    parameters = backbone.num_parameters(config)
    shared = {"kind": backbone.kind, "parameters": parameters, "products": products}
    if isinstance(config, MMDiTConfig):
        return _mmdit(config, latent_side, segments, shared)
    network = on_meta(partial(backbone.build, config))
    whole = saved_bytes_of(network, latent_side, latent_side, segments)
    kept, depth = int(AUTOCAST_SHARE * whole), _num_blocks(config)
    checkpointed, muon_weights, width = None, 0, 0
    if isinstance(config, DiTConfig | CrossDiTConfig):
        width, pixels = config.width, (latent_side // config.patch_size) ** 2
        is_dit = isinstance(config, DiTConfig)
        tokens = pixels + sum(segments) if is_dit else pixels
        checkpointed = _checkpointed(kept, depth, tokens * width)
        muon_weights = (12 if is_dit else 16) * depth * width**2
    return Workload(
        **shared,
        num_blocks=depth,
        kept_bytes=kept,
        checkpointed_bytes=checkpointed,
        is_estimate=True,
        copy_bytes=BF16_BYTES * parameters,
        constant_bytes=0,
        muon_weights=muon_weights,
        width=width,
    )


def of_depth(config: Any, depth: int) -> Any:
    """The configuration with another depth, its width in proportion as in the SD3 paper.

    Raises:
        ValueError: If the kind has no such family.
    """
    if isinstance(config, MMDiTConfig):
        return replace(config, depth=depth, num_heads=None, dual_attention=())
    if isinstance(config, DiTConfig | CrossDiTConfig):
        return replace(config, depth=depth, num_heads=depth)
    raise ValueError(f"a {backbone_of(config).kind} has no family by depth")


def _mmdit(
    config: MMDiTConfig, side: int, segments: tuple[int, ...], shared: dict[str, Any]
) -> Workload:
    told = training_bytes(config, side, side, sum(segments))
    tokens = (side // config.patch_size) ** 2 + sum(segments)
    num_texts, h = config.num_weight_sets - 1, config.width
    squares = 12 * (config.depth + num_texts * (config.depth - 1)) + 3 * num_texts
    return Workload(
        **shared,
        num_blocks=config.depth,
        kept_bytes=told["activations"],
        checkpointed_bytes=_checkpointed(told["activations"], config.depth, tokens * h),
        is_estimate=False,
        copy_bytes=told["weight_copies"],
        constant_bytes=told["positions"],
        muon_weights=(squares + 4 * len(config.dual_attention)) * h * h,
        width=h,
    )


def _checkpointed(kept: int, depth: int, numbers: int) -> int:
    """What enters each block, in float32, and all that the one at work keeps."""
    return depth * FLOAT32_BYTES * numbers + kept // depth


def _num_blocks(config: Any) -> int:
    if isinstance(config, DiTConfig | CrossDiTConfig | PixArtConfig):
        return config.depth
    levels = 2 * len(config.channels)  # on the way down, and up
    return levels + (config.depth if isinstance(config, UViTConfig) else 1)


def _check_side(config: Any, side: int) -> None:
    if side < 1 or side % config.latent_multiple:
        raise ValueError(
            f"latents must have a side that is a multiple of {config.latent_multiple} for this "
            f"model, got {side}"
        )
    if config.max_latent_side is not None and side > config.max_latent_side:
        raise ValueError(
            f"latents must have a side of at most {config.max_latent_side} for this model, "
            f"got {side}"
        )
