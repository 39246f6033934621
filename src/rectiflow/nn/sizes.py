"""What an MM-DiT costs, computed from its shape alone."""

from rectiflow.nn.embeddings import FREQUENCY_WIDTH
from rectiflow.nn.mmdit import MMDiTConfig
from rectiflow.nn.products import Products


def num_parameters(config: MMDiTConfig) -> int:
    """Learned numbers; the position table, a constant, is not among them."""
    h, patch = config.width, config.patch_size**2 * config.latent_channels
    norms = 2 * config.head_width if config.qk_norm else 0
    stream = 18 * h * h + 15 * h + norms  # modulation 6h, qkv 3h, out h, perceptron 4h + 4h
    last_text = 5 * h * h + 5 * h + norms  # modulation 2h, qkv 3h
    own_attention = 7 * h * h + 7 * h + norms  # modulation 3h, qkv 3h, out h
    embeddings = (
        _linear(patch, h)
        + _linear(config.context_width, h)
        + _linear(FREQUENCY_WIDTH, h)
        + _linear(config.pooled_width, h)
        + 2 * _linear(h, h)
    )
    num_texts = config.num_weight_sets - 1
    blocks = config.depth * stream + num_texts * ((config.depth - 1) * stream + last_text)
    final = _linear(h, 2 * h) + _linear(h, patch)
    return embeddings + blocks + len(config.dual_attention) * own_attention + final


def products(config: MMDiTConfig, height: int, width: int, num_text_tokens: int) -> Products:
    """Multiply-adds of one sample's forward pass.

    The text of the last block, which is attended to but does not attend, costs keys and values.

    Args:
        config: Shape of the network.
        height: Rows of the latent.
        width: Columns of the latent.
        num_text_tokens: Tokens of the context, whichever weights they meet.
    """
    h, patch = config.width, config.patch_size**2 * config.latent_channels
    pixels, texts = (height // config.patch_size) * (width // config.patch_size), num_text_tokens
    tokens, depth, duals = pixels + texts, config.depth, len(config.dual_attention)
    streams = depth + (config.num_weight_sets - 1) * (depth - 1)  # but for the last of the texts
    first = (pixels * patch + texts * config.context_width) * h
    first += (FREQUENCY_WIDTH + config.pooled_width) * h  # time and pooled text
    vectors = (2 + 6 * streams + 2 * (config.num_weight_sets - 1) + 3 * duals + 2) * h * h
    image = (12 * depth + 4 * duals) * pixels * h * h  # qkv 3, out 1, perceptron 4 + 4; qkv, out
    text = texts * (12 * (depth - 1) + 2) * h * h
    pairs = ((depth - 1) * tokens + pixels) * tokens + duals * pixels * pixels
    layers = first + vectors + image + text + pixels * h * patch
    return Products(layers=layers, attention=2 * pairs * h, first=first)


def forward_flops(config: MMDiTConfig, height: int, width: int, num_text_tokens: int) -> int:
    """FLOPs of one sample's forward pass; arguments as in `products`."""
    return products(config, height, width, num_text_tokens).forward_flops


def _linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out
