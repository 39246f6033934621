"""What DiT, CrossDiT and U-ViT cost, computed from their shapes alone.

Parameters leave out the tables of positions, constants. Products are those of one sample's forward
pass on a latent of height x width.
"""

from itertools import pairwise

from rectiflow.nn.embeddings import FREQUENCY_WIDTH
from rectiflow.nn.products import Products
from rectiflow.nn.single_stream import SingleStreamConfig
from rectiflow.nn.uvit import UViTConfig


def dit_parameters(config: SingleStreamConfig, has_cross: bool) -> int:
    """Learned numbers of a DiT, or with `has_cross` of a CrossDiT."""
    h, patch = config.width, config.patch_size**2 * config.latent_channels
    ends = _linear(patch, h) + _linear(h, 2 * h) + _linear(h, patch)
    return ends + _conditioning(config) + config.depth * _block(config, has_cross)


def dit_products(
    config: SingleStreamConfig, height: int, width: int, num_text_tokens: int
) -> Products:
    """Of a DiT, whose image and text tokens attend to each other."""
    first, ends, pixels = _ends(config, height, width, num_text_tokens)
    tokens = pixels + num_text_tokens
    return Products(
        layers=ends + config.depth * _block_layers(tokens, config.width),
        attention=config.depth * 2 * tokens * tokens * config.width,
        first=first,
    )


def cross_dit_products(
    config: SingleStreamConfig, height: int, width: int, num_text_tokens: int
) -> Products:
    """Of a CrossDiT, whose image tokens attend to themselves, then to the text."""
    first, ends, pixels = _ends(config, height, width, num_text_tokens)
    h, texts = config.width, num_text_tokens
    across = 2 * pixels * h * h + 2 * texts * h * h  # q, out; k, v
    return Products(
        layers=ends + config.depth * (_block_layers(pixels, h) + across),
        attention=config.depth * 2 * pixels * (pixels + texts) * h,
        first=first,
    )


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


def uvit_products(config: UViTConfig, height: int, width: int, num_text_tokens: int) -> Products:
    """Of a U-ViT, whose innermost map joins the text in one sequence."""
    h, steps = config.width, [*config.channels, config.width]
    positions = height * width
    outermost = positions * 9 * config.latent_channels * steps[0]
    first = outermost + num_text_tokens * config.context_width * h + _first_vectors(config)
    macs = first + outermost + (2 + 6 * config.depth) * h * h  # the last convolution; vectors
    for outer, inner in pairwise(steps):
        # Down: two convolutions. Up: one sees twice the channels, and there is a shortcut.
        per_position = 9 * 2 * outer * outer + (9 * 3 + 2) * outer * outer
        macs += config.num_resnets * (positions * per_position + 2 * h * 2 * outer)
        macs += positions * 9 * inner * outer  # doubled
        positions //= 4
        macs += positions * 9 * outer * inner  # halved
    tokens = positions + num_text_tokens
    return Products(
        layers=macs + config.depth * _block_layers(tokens, h),
        attention=config.depth * 2 * tokens * tokens * h,
        first=first,
    )


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


def _ends(config: SingleStreamConfig, height: int, width: int, texts: int) -> tuple[int, int, int]:
    """Multiply-adds of the first layers; those and all others outside of blocks; image tokens."""
    h, patch = config.width, config.patch_size**2 * config.latent_channels
    pixels = (height // config.patch_size) * (width // config.patch_size)
    first = pixels * patch * h + texts * config.context_width * h + _first_vectors(config)
    vectors = (2 + 6 * config.depth + 2) * h * h  # all modulations among them
    return first, first + vectors + pixels * patch * h, pixels


def _first_vectors(config: SingleStreamConfig | UViTConfig) -> int:
    return (FREQUENCY_WIDTH + config.pooled_width) * config.width


def _block_layers(tokens: int, h: int) -> int:
    """Of a block but for its modulation: qkv 3, out 1, perceptron 4 + 4."""
    return 12 * tokens * h * h


def _linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out


def _convolution(inputs: int, outputs: int) -> int:
    return 9 * inputs * outputs + outputs
