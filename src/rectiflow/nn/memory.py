"""How much memory an MM-DiT takes to train and to sample, computed from its shape.

Estimates of what is held at once on a GPU, in bytes, in the plain forms of `kernels` and
`attention` with an attention that keeps no matrix of weights. Left out: statistics of the norms
(about 1 %), workspaces of the matrix products, and what an allocator holds beyond need.

Below, h is the network's width, r the bytes of a residual number (that of a weight) and a those of
a number inside the products (less than r under autocast).
"""

from rectiflow.nn.embeddings import FREQUENCY_WIDTH
from rectiflow.nn.mmdit import MMDiTConfig
from rectiflow.nn.sizes import num_parameters

FLOAT32_BYTES = 4
BF16_BYTES = 2


def training_bytes(
    config: MMDiTConfig,
    height: int,
    width: int,
    num_text_tokens: int,
    *,
    batch_size: int = 1,
    product_bytes: int = BF16_BYTES,
    num_optimizer_states: int = 2,
    has_ema: bool = True,
) -> dict[str, int]:
    """What a training step holds, with weights in float32: at most the `total` of its parts.

    Args:
        config: Shape of the network.
        height: Rows of the latent.
        width: Columns of the latent.
        num_text_tokens: Tokens of the context.
        batch_size: Samples in one forward pass.
        product_bytes: 2 for autocast to bf16, 4 without autocast.
        num_optimizer_states: Numbers the optimizer keeps per weight: 2 for AdamW, 1 for Muon.
        has_ema: Whether an average of the weights is kept.

    Returns:
        `parameters`, `gradients`, `ema`, `optimizer`, `positions`; `weight_copies`, the weights of
        the products as autocast has them; `activations`; `total`.
    """
    weights = FLOAT32_BYTES * num_parameters(config)
    is_cast = product_bytes < FLOAT32_BYTES
    parts = {
        "parameters": weights,
        "gradients": weights,
        "ema": weights if has_ema else 0,
        "optimizer": num_optimizer_states * weights,
        "positions": FLOAT32_BYTES * _num_positions(config),
        "weight_copies": product_bytes * _num_product_weights(config) if is_cast else 0,
        "activations": batch_size
        * activation_bytes(config, height, width, num_text_tokens, product_bytes=product_bytes),
    }
    return parts | {"total": sum(parts.values())}


def sampling_bytes(
    config: MMDiTConfig,
    height: int,
    width: int,
    num_text_tokens: int,
    *,
    batch_size: int = 2,
    weight_bytes: int = BF16_BYTES,
) -> dict[str, int]:
    """What a forward pass without gradients holds, with weights stored in `weight_bytes` each.

    A block holds most in the perceptron of the larger stream: per token of all streams what came
    in, its norm and what attention brought, 3 h; per token of that stream besides what has been
    added to it so far, its modulated norm, and the hidden layer before and after its gate, 10 h.
    Where the image attends to itself as well, the float32 of its QK norm makes that 12 h.

    Args:
        config: Shape of the network.
        height: Rows of the latent.
        width: Columns of the latent.
        num_text_tokens: Tokens of the context.
        batch_size: Samples in one forward pass, 2 for one picture with guidance.
        weight_bytes: 2 for bf16, 4 for float32.

    Returns:
        `parameters`, `positions`, `activations` and their `total`.
    """
    pixels = _num_image_tokens(config, height, width)
    own = 12 if config.dual_attention else 10
    held = 3 * (pixels + num_text_tokens) + own * max(pixels, num_text_tokens)
    parts = {
        "parameters": weight_bytes * num_parameters(config),
        "positions": weight_bytes * _num_positions(config),
        "activations": batch_size * held * config.width * weight_bytes,
    }
    return parts | {"total": sum(parts.values())}


def activation_bytes(
    config: MMDiTConfig, height: int, width: int, num_text_tokens: int, *, product_bytes: int
) -> int:
    """What the forward pass of one sample keeps for the backward pass, with weights in float32.

    Per token of a stream and channel: 6 r + 15 a, and for QK norm 2 r under autocast, otherwise
    3 r. In detail: before each of the two modulations the tokens and their norm, 4 r; each
    modulated norm, 2 a; queries, keys, values and what attention brings, the latter twice, for the
    streams part again, 5 a; the hidden layer before and after its gate, 8 a; what attention and
    perceptron add, 2 r; queries and keys before their norm in float32, or the projections they are
    part of. In the last block the image does not part from the text: a less.

    The text of the last block keeps 2 r + 3 a, and for QK norm r or 2 r; attention of the image to
    itself r + 5 a and the QK norm's share. The two ends keep their inputs and the last modulation,
    3 r h per image token. Every modulation keeps its vectors, once for the whole picture.
    """
    h, r, a = config.width, FLOAT32_BYTES, product_bytes
    pixels, texts = _num_image_tokens(config, height, width), num_text_tokens
    tokens, depth, duals = pixels + texts, config.depth, len(config.dual_attention)
    norm = (2 * r if a < r else 3 * r) if config.qk_norm else 0
    last_norm = (r if a < r else 2 * r) if config.qk_norm else 0
    blocks = (depth - 1) * tokens * (6 * r + 15 * a + norm) + pixels * (6 * r + 14 * a + norm)
    blocks += texts * (2 * r + 3 * a + last_norm)
    blocks += duals * pixels * (r + 5 * a + norm)
    ends = a * (pixels * config.patch_size**2 * config.latent_channels)
    ends += a * texts * config.context_width + 3 * r * h * pixels
    num_texts = config.num_weight_sets - 1
    vectors = 8 * (depth + num_texts * (depth - 1)) + num_texts + 4 * duals + 7
    sources = r * (FREQUENCY_WIDTH + config.pooled_width)
    return blocks * h + ends + r * vectors * h + sources


def _num_image_tokens(config: MMDiTConfig, height: int, width: int) -> int:
    return (height // config.patch_size) * (width // config.patch_size)


def _num_positions(config: MMDiTConfig) -> int:
    return config.rows * config.table_side * config.width


def _num_product_weights(config: MMDiTConfig) -> int:
    """Weights of the matrix products that autocast reaches: all but modulations and both ends."""
    h, num_texts = config.width, config.num_weight_sets - 1
    streams = config.depth + num_texts * (config.depth - 1)
    patch = config.patch_size**2 * config.latent_channels
    blocks = 12 * streams + 2 * num_texts + 4 * len(config.dual_attention)
    return blocks * h * h + (patch + config.context_width) * h
