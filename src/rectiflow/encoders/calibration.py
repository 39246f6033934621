"""Bring the states of trained text encoders to one scale without changing what they say.

Only normalised copies of a CLIP encoder's residual stream are ever read, by its own layers and by
the contrastive loss, so training leaves the scale of the stream to chance: after the packaged
recipe it is 5 in one encoder and 9 in the other. A network takes its context from that very stream,
beside T5's states of scale 1, and learns slowly from inputs of such different sizes.

Departure: the released encoders are used at the scale they have.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from rectiflow.encoders.text import TextEncoders

_SAMPLE = 1024


@torch.no_grad()
def normalise_states(text: TextEncoders, captions: Iterable[str]) -> dict[str, float]:
    """Rescale weights so that every part of the text states has a root mean square of 1.

    Cosine similarities of pooled vectors stay as they are, and so do states but for their scale.

    Args:
        text: Trained encoders, changed in place.
        captions: What they will encode; at most 1024 distinct ones are measured.

    Returns:
        The root mean squares that were, by part.

    Raises:
        ValueError: If there are no captions.
    """
    distinct = sorted(set(captions))
    states = text.encode(distinct[:: -(-len(distinct) // _SAMPLE) or 1])
    scales = {
        name: _root_mean_square(getattr(states, name))
        for name in ("clip_l", "clip_g", "t5", "pooled_l", "pooled_g")
    }
    for model, suffix in ((text.clip_l, "l"), (text.clip_g, "g")):
        scale_stream(model, 1 / scales[f"clip_{suffix}"])
        model.text_projection.weight.mul_(1 / scales[f"pooled_{suffix}"])
    text.t5.encoder.final_layer_norm.weight.mul_(1 / scales["t5"])
    return scales


@torch.no_grad()
def scale_stream(model: CLIPTextModelWithProjection, factor: float) -> None:
    """Multiply the residual stream of a CLIP text model, in place; its output stays the same.

    Everything that is added to the stream is scaled. What is read from it passes a layer norm
    first, whose epsilon, added to the variance, is scaled by the square.
    """
    inner: Any = model.text_model
    inner.embeddings.token_embedding.weight.mul_(factor)
    inner.embeddings.position_embedding.weight.mul_(factor)
    for layer in inner.encoder.layers:
        for written in (layer.self_attn.out_proj, layer.mlp.fc2):
            written.weight.mul_(factor)
            written.bias.mul_(factor)
    for module in inner.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps *= factor**2
    config: Any = model.config
    config.layer_norm_eps *= factor**2


def _root_mean_square(values: Tensor) -> float:
    return values.cpu().double().square().mean().sqrt().item()
