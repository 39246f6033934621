"""What DiT, CrossDiT and U-ViT cost, computed from their shapes alone.

Parameters leave out the tables of positions, constants. FLOPs are those of one sample's forward
pass, matrix products and convolutions only, as `torch.utils.flop_counter` counts: a multiply-add is
two, and the zeros around a picture are multiplied too.
"""

from itertools import pairwise

from rectiflow.nn.embeddings import FREQUENCY_WIDTH
from rectiflow.nn.single_stream import SingleStreamConfig
from rectiflow.nn.uvit import UViTConfig


def dit_parameters(config: SingleStreamConfig, has_cross: bool) -> int:
    """Learned numbers of a DiT, or with `has_cross` of a CrossDiT."""
    h, patch = config.width, config.patch_size**2 * config.latent_channels
    ends = _linear(patch, h) + _linear(h, 2 * h) + _linear(h, patch)
    return ends + _conditioning(config) + config.depth * _block(config, has_cross)


def dit_flops(config: SingleStreamConfig, height: int, width: int, num_text_tokens: int) -> int:
    """FLOPs of a DiT on a latent of `height` x `width`."""
    pixels, patch = _image_tokens(config, height, width)
    tokens = pixels + num_text_tokens
    blocks = config.depth * _self_attending(tokens, config.width)
    return 2 * (_ends(config, pixels, patch, num_text_tokens) + blocks)


def cross_dit_flops(
    config: SingleStreamConfig, height: int, width: int, num_text_tokens: int
) -> int:
    """FLOPs of a CrossDiT on a latent of `height` x `width`."""
    pixels, patch = _image_tokens(config, height, width)
    h, texts = config.width, num_text_tokens
    across = 2 * pixels * h * h + 2 * texts * h * h + 2 * pixels * texts * h
    blocks = config.depth * (_self_attending(pixels, h) + across)
    return 2 * (_ends(config, pixels, patch, texts) + blocks)


def uvit_parameters(config: UViTConfig) -> int:
    """Learned numbers of a U-ViT."""
    h, steps = config.width, [*config.channels, config.width]
    total = _convolution(config.latent_channels, steps[0]) + _conditioning(config)
    for outer, inner in pairwise(steps):
        down, up = _resnet(outer, outer, h), _resnet(2 * outer, outer, h)
        total += config.num_resnets * (down + up)
        total += _convolution(outer, inner) + _convolution(inner, outer)
    total += config.depth * _block(config, has_cross=False)
    return total + 2 * steps[0] + _convolution(steps[0], config.latent_channels)


def uvit_flops(config: UViTConfig, height: int, width: int, num_text_tokens: int) -> int:
    """FLOPs of a U-ViT on a latent of `height` x `width`."""
    h, steps = config.width, [*config.channels, config.width]
    positions = height * width
    macs = positions * 9 * 2 * config.latent_channels * steps[0]  # first and last convolution
    for outer, inner in pairwise(steps):
        # Down: two convolutions. Up: one sees twice the channels, and there is a shortcut.
        per_position = 9 * 2 * outer * outer + (9 * 3 + 2) * outer * outer
        macs += config.num_resnets * (positions * per_position + 2 * h * 2 * outer)
        macs += positions * 9 * inner * outer  # doubled
        positions //= 4
        macs += positions * 9 * outer * inner  # halved
    tokens = positions + num_text_tokens
    macs += num_text_tokens * config.context_width * h + config.depth * 6 * h * h
    macs += _vectors(config) + config.depth * _self_attending(tokens, h)
    return 2 * macs


def _conditioning(config: SingleStreamConfig | UViTConfig) -> int:
    h = config.width
    vectors = _linear(FREQUENCY_WIDTH, h) + _linear(config.pooled_width, h) + 2 * _linear(h, h)
    return vectors + _linear(config.context_width, h)


def _block(config: SingleStreamConfig | UViTConfig, has_cross: bool) -> int:
    h, norms = config.width, 2 * config.head_width if config.qk_norm else 0
    across = 4 * h * h + 4 * h + norms  # q h, kv 2h, out h
    # Modulation 6h, qkv 3h, out h, perceptron 4h + 4h.
    return 18 * h * h + 15 * h + norms + (across if has_cross else 0)


def _resnet(inputs: int, outputs: int, steering: int) -> int:
    shortcut = 0 if inputs == outputs else _linear(inputs, outputs)
    norms = 2 * inputs + 2 * outputs
    convolutions = _convolution(inputs, outputs) + _convolution(outputs, outputs)
    return norms + convolutions + _linear(steering, 2 * outputs) + shortcut


def _image_tokens(config: SingleStreamConfig, height: int, width: int) -> tuple[int, int]:
    """Tokens of a picture, and numbers in each."""
    size = config.patch_size
    return (height // size) * (width // size), size**2 * config.latent_channels


def _ends(config: SingleStreamConfig, pixels: int, patch: int, texts: int) -> int:
    """Multiply-adds of the embeddings, all modulations and the final layer."""
    h = config.width
    modulations = (6 * config.depth + 2) * h * h
    tokens = 2 * pixels * patch * h + texts * config.context_width * h
    return _vectors(config) + modulations + tokens


def _vectors(config: SingleStreamConfig | UViTConfig) -> int:
    h = config.width
    return (FREQUENCY_WIDTH + config.pooled_width + 2 * h) * h


def _self_attending(tokens: int, h: int) -> int:
    """Multiply-adds of a block but for its modulation: qkv 3, out 1, perceptron 4 + 4."""
    return 12 * tokens * h * h + 2 * tokens * tokens * h


def _linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out


def _convolution(inputs: int, outputs: int) -> int:
    return 9 * inputs * outputs + outputs
