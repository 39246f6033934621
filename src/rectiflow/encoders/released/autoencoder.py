"""The released autoencoder from the tensors inside a single file, in the names of latent diffusion.

A name there is the path in the original code; diffusers' `AutoencoderKL` has the same modules under
other names, its decoder counted from the other end. The map is written out here, for diffusers'
own converter silently leaves out what it does not know.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.released.models import check_fit
from rectiflow.errors import DataError

SCALE, SHIFT = 1.5305, 0.0609
"""Of the latents of SD3 and SD3.5: (mode - shift) * scale on encoding, its inverse on decoding."""

LATENT_CHANNELS = 16
_NORM_GROUPS = 32
_MAX_LEVELS = _MAX_BLOCKS = 8

_LEVEL = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(block|downsample|upsample)\.(.*)")
_MID = re.compile(r"(encoder|decoder)\.mid\.(block|attn)_(\d)\.(.*)")
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def released_autoencoder(tensors: Mapping[str, Tensor], origin: str) -> Autoencoder:
    """The autoencoder that these tensors are, in float32.

    Args:
        tensors: Names of latent diffusion, without the container's `first_stage_model.`.
        origin: Names the file in an error.

    Raises:
        DataError: See `fitted_autoencoder`.
    """
    network, weights = fitted_autoencoder(tensors, origin)
    network.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
    return Autoencoder(network).eval()


def fitted_autoencoder(tensors: Mapping[str, Tensor], origin: str) -> tuple[Any, dict[str, Tensor]]:
    """An `AutoencoderKL` without weights, and the weights that fit it under its names.

    Args:
        tensors: As for `released_autoencoder`.
        origin: Names the file in an error.

    Raises:
        DataError: If the latents do not have 16 channels, or tensors are missing, unknown, of the
            wrong shape or no floats.
    """
    if wrong := sorted(name for name, x in tensors.items() if not x.is_floating_point()):
        raise DataError(f"{origin}: weights of an autoencoder must be floats: {wrong[0]}")
    try:
        config = _config(tensors)
    except (KeyError, IndexError) as error:
        raise DataError(f"{origin} is no autoencoder: it lacks {error}") from error
    if config["latent_channels"] != LATENT_CHANNELS:
        raise DataError(
            f"{origin} is another model's autoencoder: latents of the released models have "
            f"{LATENT_CHANNELS} channels, its have {config['latent_channels']}"
        )
    num_levels = len(config["block_out_channels"])
    weights = {diffusers_name(name, num_levels): value for name, value in tensors.items()}
    for name, value in weights.items():
        if "attentions" in name and value.ndim == 4:  # a 1x1 convolution there, a matrix here
            weights[name] = value[:, :, 0, 0]
    try:
        with torch.device("meta"):
            network: Any = AutoencoderKL(**config)
    except (ValueError, ZeroDivisionError, RuntimeError) as error:
        raise DataError(f"{origin} is no autoencoder: {error}") from error
    check_fit(network, weights, origin)
    return network, weights


def diffusers_name(name: str, num_levels: int) -> str:
    """Name in `AutoencoderKL` of a tensor of the original autoencoder.

    Names that are the same in both, and unknown ones, are returned unchanged.
    """
    if found := _LEVEL.fullmatch(name):
        half, level, kind, rest = found.groups()
        index = int(level) if half == "encoder" else num_levels - 1 - int(level)
        block = f"{half}.{'down' if half == 'encoder' else 'up'}_blocks.{index}"
        if kind == "block":
            return f"{block}.resnets.{rest.replace('nin_shortcut', 'conv_shortcut')}"
        return f"{block}.{kind}rs.0.{rest}"
    if found := _MID.fullmatch(name):
        half, kind, number, rest = found.groups()
        if kind == "block":
            return f"{half}.mid_block.resnets.{int(number) - 1}.{rest}"
        module, _, last = rest.rpartition(".")
        return f"{half}.mid_block.attentions.0.{_ATTENTION.get(module, module)}.{last}"
    return name.replace("coder.norm_out.", "coder.conv_norm_out.")


def _config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    first = "encoder.down.{}.block.{}.conv1.weight".format
    levels = [first(i, 0) for i in range(_MAX_LEVELS) if i == 0 or first(i, 0) in tensors]
    blocks = [i for i in range(_MAX_BLOCKS) if first(0, i) in tensors]
    widths = [tensors[name].shape[0] for name in levels]
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(levels),
        "up_block_types": ("UpDecoderBlock2D",) * len(levels),
        "block_out_channels": tuple(widths),
        "layers_per_block": len(blocks),
        "norm_num_groups": _NORM_GROUPS,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in tensors,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
        "scaling_factor": SCALE,
        "shift_factor": SHIFT,
        "force_upcast": False,
    }
