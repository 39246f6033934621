"""An autoencoder with random weights under the names of the original code."""

import torch

WIDTHS = (32, 64, 64, 96)
LAYERS = 2


def ldm_tensors(channels=16, widths=WIDTHS, seed=0):
    """Random weights under the names of the original code, whose structure is written out here."""
    tensors, generator = {}, torch.Generator().manual_seed(seed)

    def conv(name, inputs, outputs, side=3):
        fan_in = inputs * side * side
        weight = torch.randn(outputs, inputs, side, side, generator=generator) / fan_in**0.5
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    def norm(name, width):
        tensors[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)

    def block(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def middle(name, width):
        block(f"{name}.block_1", width, width)
        norm(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.attn_1.{part}", width, width, 1)
        block(f"{name}.block_2", width, width)

    conv("encoder.conv_in", 3, widths[0])
    inputs = widths[0]
    for level, width in enumerate(widths):
        for number in range(LAYERS):
            block(f"encoder.down.{level}.block.{number}", inputs, width)
            inputs = width
        if level < len(widths) - 1:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder.mid", widths[-1])
    norm("encoder.norm_out", widths[-1])
    conv("encoder.conv_out", widths[-1], 2 * channels)
    conv("decoder.conv_in", channels, widths[-1])
    middle("decoder.mid", widths[-1])
    for level in reversed(range(len(widths))):
        for number in range(LAYERS + 1):
            block(f"decoder.up.{level}.block.{number}", inputs, widths[level])
            inputs = widths[level]
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", inputs, inputs)
    norm("decoder.norm_out", widths[0])
    conv("decoder.conv_out", widths[0], 3)
    return tensors
