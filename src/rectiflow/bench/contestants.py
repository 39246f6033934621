"""Our MM-DiT and diffusers' `SD3Transformer2DModel` with the same weights, called alike."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning
from rectiflow.nn.memory import FLOAT32_BYTES, training_bytes
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig

CONTEXT_WIDTH, POOLED_WIDTH = 4096, 2048  # of the released models
BATCH_SIZE = 4
LATENT_SIDE, NUM_TEXT_TOKENS = 32, 154  # 256 image tokens: 256 px with an autoencoder of factor 8

Velocity = Callable[[Tensor, Tensor, Conditioning], Tensor]


@dataclass(frozen=True)
class Contestant:
    """A network, how to call it, and its optimizer, whose steps leave the weights as they are."""

    network: nn.Module
    velocity: Velocity
    optimizer: torch.optim.Optimizer


def shape_of_depth(depth: int) -> MMDiTConfig:
    """An MM-DiT of the paper's shape, made for the latents measured with."""
    return MMDiTConfig(
        depth=depth,
        context_width=CONTEXT_WIDTH,
        pooled_width=POOLED_WIDTH,
        base_side=LATENT_SIDE // 2,
        table_side=LATENT_SIDE,
    )


def contestants(
    config: MMDiTConfig, device: torch.device, *, is_compiled: bool
) -> tuple[Contestant, Contestant]:
    """Ours and diffusers', with the same weights; all gates are open, so that all has a say."""
    with device:
        ours = with_open_gates(MMDiT(config))
    theirs = diffusers_peer(ours)
    callables = [
        torch.compile(network, dynamic=False) if is_compiled else network
        for network in (ours, theirs)
    ]
    return (
        Contestant(ours, callables[0], _optimizer(ours)),
        Contestant(theirs, partial(call_diffusers, callables[1]), _optimizer(theirs)),
    )


def with_open_gates(network: MMDiT) -> MMDiT:
    """The network itself, with weights of which each has a say, the same at every call."""
    generator = torch.Generator(next(network.parameters()).device).manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
    return network


def bytes_of_both(config: MMDiTConfig) -> int:
    """What the two hold in a training step: both all the time, and the activations of one."""
    told = training_bytes(
        config,
        LATENT_SIDE,
        LATENT_SIDE,
        NUM_TEXT_TOKENS,
        batch_size=BATCH_SIZE,
        product_bytes=FLOAT32_BYTES,
        has_ema=False,
    )
    return 2 * (told["total"] - told["activations"]) + told["activations"]


def diffusers_peer(network: MMDiT) -> nn.Module:
    """The network of diffusers, with copies of the weights of ours."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    from rectiflow.interop.keys import pieces
    from rectiflow.interop.settings import diffusers_settings

    with torch.device("meta"):
        peer = SD3Transformer2DModel(**diffusers_settings(network.config))
    ours, theirs = network.state_dict(), {}
    for piece in pieces("diffusers", network.config):
        parts = piece.to_theirs(ours[piece.ours], network.config.patch_size)
        theirs |= {name: part.clone() for name, part in zip(piece.theirs, parts, strict=True)}
    peer.load_state_dict(theirs, assign=True)
    return peer


def inputs(device: torch.device) -> tuple[Tensor, Tensor, Conditioning]:
    """A batch of random latents, times and texts."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    x = noise(BATCH_SIZE, 16, LATENT_SIDE, LATENT_SIDE)
    t = torch.linspace(0.1, 0.9, BATCH_SIZE, device=device)
    segments = (NUM_TEXT_TOKENS // 2, NUM_TEXT_TOKENS // 2)
    context = noise(BATCH_SIZE, NUM_TEXT_TOKENS, CONTEXT_WIDTH)
    return x, t, Conditioning(context, noise(BATCH_SIZE, POOLED_WIDTH), segments)


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=0.0, fused=True)


def call_diffusers(network: Callable[..., Any], x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """Velocity by diffusers' network, called as ours is."""
    return network(
        hidden_states=x,
        timestep=1000 * t,
        encoder_hidden_states=cond.context,
        pooled_projections=cond.pooled,
        return_dict=False,
    )[0]
