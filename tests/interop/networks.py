"""Tiny networks with random weights, and their files in every layout, written by other means."""

import json
from dataclasses import replace

import torch
from safetensors.torch import save_file

from rectiflow.interop.keys import pieces
from rectiflow.interop.settings import diffusers_settings
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig

PLAIN = MMDiTConfig(
    depth=2,
    latent_channels=4,
    context_width=24,
    pooled_width=20,
    base_side=4,
    table_side=6,
    qk_norm=False,
)
NORMED = replace(PLAIN, qk_norm=True)
DUAL = replace(NORMED, dual_attention=(0,))
VARIANTS = {"sd3-medium": PLAIN, "sd3.5-large": NORMED, "sd3.5-medium": DUAL}
"""The three kinds of network that were released, in the small: depth = heads = width / 64."""

SMALL = replace(DUAL, head_width=4, num_heads=1, context_width=8, pooled_width=4, table_side=4)
"""A few kilobytes; the original code would not take its heads, but its names and shapes fit."""


def network(config, seed=0):
    """An MM-DiT in which every parameter matters; the positions are as the configuration says."""
    model, generator = MMDiT(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def foreign_weights(model, layout):
    """The weights under the names of a layout."""
    state, weights = model.state_dict(), {}
    for piece in pieces(layout, model.config):
        parts = piece.to_theirs(state[piece.ours], model.config.patch_size)
        weights |= {k: v.contiguous().clone() for k, v in zip(piece.theirs, parts, strict=True)}
    return weights


def write_stability(path, model, prefix="model.diffusion_model.", more=None, metadata=None):
    weights = {prefix + name: value for name, value in foreign_weights(model, "stability").items()}
    save_file({**weights, **(more or {})}, path, metadata)
    return path


def write_diffusers(folder, model, changes=None):
    """A transformer folder."""
    folder.mkdir(parents=True)
    settings = {"_class_name": "SD3Transformer2DModel", **diffusers_settings(model.config)}
    (folder / "config.json").write_text(json.dumps({**settings, **(changes or {})}))
    save_file(foreign_weights(model, "diffusers"), folder / "diffusion_pytorch_model.safetensors")
    return folder


def same(state, other):
    """Whether two states have the same names, types and bits."""
    return state.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name])
        for name, value in state.items()
    )
