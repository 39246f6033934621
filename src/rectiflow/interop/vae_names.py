"""The autoencoder's tensors from diffusers' names back to those of the original single file."""

import json
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from rectiflow.encoders.folders import refuse_non_finite
from rectiflow.encoders.released.autoencoder import (
    LATENT_CHANNELS,
    SCALE,
    SHIFT,
    diffusers_name,
    fitted_autoencoder,
)
from rectiflow.errors import DataError
from rectiflow.interop.tensor_file import TensorFile
from rectiflow.interop.tensors import Tensors
from rectiflow.runs import read_json

# What the original layout has no place for, and therefore means: the autoencoder of the releases.
_IMPLIED = {"scaling_factor": SCALE, "shift_factor": SHIFT, "norm_num_groups": 32}
_IMPLIED |= {"latent_channels": LATENT_CHANNELS}
_MOST = 8  # levels, and blocks of each; twice what there is
_BLOCK = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
_ATTENTION = ("norm", "q", "k", "v", "proj_out")


def original_vae(folder: Path) -> dict[str, Tensor] | None:
    """Tensors of a vae/ folder under original names, memory-mapped.

    Returns:
        None if there is none, or it is another autoencoder than that of the releases: scale and
        shift of its latents would be lost.

    Raises:
        DataError: If a file is damaged, a tensor is missing, misshapen, not finite, or has no known
            name.
    """
    file = folder / "diffusion_pytorch_model.safetensors"
    if not ((folder / "config.json").is_file() and file.is_file()):
        return None
    settings = read_json(folder / "config.json")
    if any(settings.get(name) != value for name, value in _IMPLIED.items()):
        return None
    tensors = Tensors.of([TensorFile(file)])
    widths, layers = settings.get("block_out_channels"), settings.get("layers_per_block")
    if (
        not (isinstance(widths, list) and 1 <= len(widths) <= _MOST)
        or type(layers) is not int
        or not 1 <= layers <= _MOST
    ):
        raise DataError(
            f"{folder / 'config.json'} is no autoencoder's: block_out_channels {widths!r}, "
            f"layers_per_block {layers!r}"
        )
    num_levels, num_blocks = len(widths), layers + 1  # of the decoder, the longer half
    names = {diffusers_name(name, num_levels): name for name in _names(num_levels, num_blocks)}
    if strangers := sorted(set(tensors) - names.keys()):
        raise DataError(f"{file} holds tensors of no known name: {json.dumps(strangers)}")
    original = {names[name]: _to_original(names[name], tensors.read(name)) for name in tensors}
    fitted_autoencoder(original, str(file))
    for name, value in original.items():
        refuse_non_finite(name, value, file)
    return original


def _to_original(name: str, value: Tensor) -> Tensor:
    """Matrices of the attention are 1x1 convolutions in the original."""
    is_matrix = ".attn_1." in name and value.ndim == 2
    return value[:, :, None, None] if is_matrix else value


def _names(num_levels: int, num_blocks: int) -> Iterator[str]:
    for module in _modules(num_levels, num_blocks):
        yield f"{module}.weight"
        yield f"{module}.bias"


def _modules(num_levels: int, num_blocks: int) -> Iterator[str]:
    yield from ("quant_conv", "post_quant_conv")
    for half, way in (("encoder", "down"), ("decoder", "up")):
        yield from (f"{half}.{name}" for name in ("conv_in", "norm_out", "conv_out"))
        for name in _BLOCK:
            yield from (f"{half}.mid.block_{i}.{name}" for i in (1, 2))
            for level in range(num_levels):
                for block in range(num_blocks):
                    yield f"{half}.{way}.{level}.block.{block}.{name}"
        yield from (f"{half}.mid.attn_1.{name}" for name in _ATTENTION)
        yield from (f"{half}.{way}.{level}.{way}sample.conv" for level in range(num_levels))
