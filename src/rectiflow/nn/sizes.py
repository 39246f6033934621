"""What an MM-DiT costs, computed from its shape alone."""

from rectiflow.nn.embeddings import FREQUENCY_WIDTH
from rectiflow.nn.mmdit import MMDiTConfig


def num_parameters(config: MMDiTConfig) -> int:
    """Learned numbers; the position table, a constant, is not among them."""
    h, patch = config.width, config.patch_size**2 * config.latent_channels
    norms = 2 * config.head_width if config.qk_norm else 0
    stream = 18 * h * h + 15 * h + norms  # modulation 6h, qkv 3h, out h, perceptron 4h + 4h
    last_context = 5 * h * h + 5 * h + norms  # modulation 2h, qkv 3h
    embeddings = (
        _linear(patch, h)
        + _linear(config.context_width, h)
        + _linear(FREQUENCY_WIDTH, h)
        + _linear(config.pooled_width, h)
        + 2 * _linear(h, h)
    )
    final = _linear(h, 2 * h) + _linear(h, patch)
    return embeddings + (2 * config.depth - 1) * stream + last_context + final


def _linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out
