"""Networks by name, of the papers' tables, releases and recipes: their shapes and costs."""

import dataclasses
from functools import partial
from typing import Any

from rectiflow.nn.backbones import BACKBONES
from rectiflow.nn.counting import on_meta, saved_bytes_of
from rectiflow.nn.counts import COUNTED, Counts
from rectiflow.nn.memory import BF16_BYTES, FLOAT32_BYTES, sampling_bytes, training_bytes
from rectiflow.nn.mmdit import MMDiTConfig
from rectiflow.nn.releases import RELEASES
from rectiflow.nn.sizes import forward_flops
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

    `pictures` tells for each side in pixels what one picture takes (see `picture_cost`); a side
    that the network does not take is left out.
    """
    config = config_of(row)
    sides = (row.side_px,) if row.side_px not in SIDES_PX else SIDES_PX
    most = config.max_latent_side
    return {
        "name": row.name,
        "kind": row.kind,
        "source": row.source,
        "network": dataclasses.asdict(config),
        "takes_pooled": config.takes_pooled,
        "parameters": row.num_parameters,
        "num_text_tokens": sum(row.segments),
        "pictures": {
            str(side): picture_cost(row, config, side)
            for side in sides
            if most is None or side // AUTOENCODER_FACTOR <= most
        },
    }


def picture_cost(row: Row, config: Any, side_px: int) -> dict[str, int]:
    """FLOPs of a forward pass; bytes to train on one picture and to draw one with guidance.

    An MM-DiT's bytes are those of `memory`: autocast to bf16 in training, weights in bf16 in
    drawing. Any other kind's are coarser. Training: weights, gradients, their average and AdamW's
    two in float32 and what the forward pass keeps, without autocast. Drawing: weights in bf16
    alone, hence at least.
    """
    side = side_px // AUTOENCODER_FACTOR
    if isinstance(config, MMDiTConfig):
        size = side, side, sum(row.segments)
        training, drawing = training_bytes(config, *size), sampling_bytes(config, *size)
        return {
            "forward_flops": forward_flops(config, *size),
            "training_bytes": training["total"],
            "sampling_bytes": drawing["total"],
        }
    counts = COUNTED.get(row.name, {}).get(side_px) or counts_of(row, config, side_px)
    return {
        "forward_flops": counts.forward_flops,
        "training_bytes": 5 * FLOAT32_BYTES * row.num_parameters + counts.kept_bytes,
        "sampling_bytes_at_least": BF16_BYTES * row.num_parameters,
    }


def counts_of(row: Row, config: Any, side_px: int) -> Counts:
    """Counts of one picture of this side, by running the network without numbers."""
    side, backbone = side_px // AUTOENCODER_FACTOR, BACKBONES[row.kind]
    flops = backbone.forward_flops(config, side, side, row.segments)
    network = on_meta(partial(backbone.build, config))
    return Counts(flops, saved_bytes_of(network, side, side, row.segments))
