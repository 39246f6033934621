"""A release in the small: network, autoencoder, text encoders and tokenizers, random weights."""

from functools import cache

import torch

from rectiflow.nn.mmdit import MMDiTConfig
from tests.encoders.released import tiny
from tests.encoders.released.ldm import ldm_tensors
from tests.interop import networks

CONFIG = MMDiTConfig(
    depth=2,
    context_width=tiny.CONTEXT_WIDTH,
    pooled_width=tiny.POOLED_WIDTH,
    base_side=4,
    table_side=6,
    dual_attention=(0,),
)
PREFIXES = {
    "vae": "first_stage_model.",
    **{name: f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl")},
}


@cache
def network():
    model = networks.network(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.5
    return model.eval()


def write_single(root, inside=("vae", "clip_l", "clip_g", "t5xxl")):
    """An original single file with these parts inside, and the tokenizers beside it."""
    states = {name: tiny.state(tiny.clip(name)) for name in ("clip_l", "clip_g")}
    states |= {"t5xxl": tiny.state(tiny.t5()), "vae": ldm_tensors()}
    del states["t5xxl"]["encoder.embed_tokens.weight"]
    more = {PREFIXES[part] + k: value for part in inside for k, value in states[part].items()}
    tiny.save_folder(root, without=["text_encoder", "text_encoder_2", "text_encoder_3"])
    return networks.write_stability(root / "model.safetensors", network(), more=more)
