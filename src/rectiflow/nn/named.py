"""Networks by name, of the papers' tables, releases and recipes: their shapes and costs."""

import dataclasses
from functools import partial
from typing import Any

from rectiflow.nn.backbones import BACKBONES, Backbone
from rectiflow.nn.counting import on_meta, saved_bytes_of
from rectiflow.nn.memory import BF16_BYTES, FLOAT32_BYTES, sampling_bytes, training_bytes
from rectiflow.nn.mmdit import MMDiTConfig
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.tables import Row

SIDES_PX = (256, 512, 1024)
AUTOENCODER_FACTOR = 8  # pixels per latent position along a side, of every release and paper here

# Of Tables 1 and 2 of arXiv:2404.02883: latents of 4 channels at 256 px, text of OpenCLIP-H.
_SCALABILITY = {
    "latent_channels": 4,
    "context_width": 1024,
    "pooled_width": 1024,
    "base_latent_side": 32,
}


def config_of(row: Row) -> Any:
    """The configuration of a row's network."""
    if row.name in RELEASES:
        return RELEASES[row.name]
    shared = {} if "latent_channels" in row.shape else _SCALABILITY
    return BACKBONES[row.kind].config(**shared, **row.shape)


def cost_of(row: Row) -> dict[str, Any]:
    """What a named network is and costs, ready for JSON; no weights are needed.

    `pictures` tells for each side in pixels what one picture takes: FLOPs of a forward pass, and
    bytes to train on it and to draw it (see `memory_of`); a side that the network does not take is
    left out.
    """
    config, backbone = config_of(row), BACKBONES[row.kind]
    sides = (row.side_px,) if row.side_px not in SIDES_PX else SIDES_PX
    pictures = {}
    for side in sides:
        latent = side // AUTOENCODER_FACTOR
        if config.max_latent_side is None or latent <= config.max_latent_side:
            flops = backbone.forward_flops(config, latent, latent, row.segments)
            memory = memory_of(backbone, config, latent, row.segments)
            pictures[str(side)] = {"forward_flops": flops, **memory}
    return {
        "name": row.name,
        "kind": row.kind,
        "source": row.source,
        "network": dataclasses.asdict(config),
        "takes_pooled": config.takes_pooled,
        "parameters": backbone.num_parameters(config),
        "num_text_tokens": sum(row.segments),
        "pictures": pictures,
    }


def memory_of(
    backbone: Backbone, config: Any, latent_side: int, segments: tuple[int, ...]
) -> dict[str, int]:
    """Bytes to train on one picture of this side, and to draw one with guidance.

    An MM-DiT's are those of `memory`: autocast to bf16 in training, weights in bf16 in drawing. Any
    other kind's are coarser. Training: weights, gradients, their average and AdamW's two in float32
    and what the forward pass keeps, without autocast. Drawing: weights in bf16 alone, hence at
    least.
    """
    if isinstance(config, MMDiTConfig):
        size = latent_side, latent_side, sum(segments)
        training, drawing = training_bytes(config, *size), sampling_bytes(config, *size)
        return {"training_bytes": training["total"], "sampling_bytes": drawing["total"]}
    weights = backbone.num_parameters(config)
    network = on_meta(partial(backbone.build, config))
    kept = saved_bytes_of(network, latent_side, latent_side, segments)
    return {
        "training_bytes": 5 * FLOAT32_BYTES * weights + kept,
        "sampling_bytes_at_least": BF16_BYTES * weights,
    }
