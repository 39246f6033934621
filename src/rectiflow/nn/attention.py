"""Joint attention of two token sequences, each projected with its own weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.nn.kernels import attention, join_heads


class QKNorm(nn.Module):
    """RMS norm of every head of the queries and of the keys, with a learnable scale per channel.

    Keeps attention logits bounded in mixed precision (SD3, Sec. 5.3.2). Row 0 of `scale` belongs to
    the queries, row 1 to the keys. Only the scales live here; `joint_attention` applies them.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, head_width))


def joint_attention(
    context: Float[Tensor, "batch texts parts heads head_width"],
    image: Float[Tensor, "batch pixels 3 heads head_width"],
    context_scale: Float[Tensor, "2 head_width"] | None,
    image_scale: Float[Tensor, "2 head_width"] | None,
) -> tuple[Float[Tensor, "batch texts width"] | None, Float[Tensor, "batch pixels width"]]:
    """Every token attends to all tokens of both sequences (SD3, Fig. 2).

    Args:
        context: Queries, keys and values of the text; or keys and values only, then the text is
            attended to but does not attend.
        image: Queries, keys and values of the image.
        context_scale: Scales of the text's QK norm; None for no normalisation.
        image_scale: Scales of the image's QK norm.

    Returns:
        Attended text tokens (None if they do not attend) and image tokens, heads side by side.
    """
    q, k, v = join_heads(context, image, context_scale, image_scale)
    out = attention(q, k, v).transpose(1, 2)
    num_image = image.shape[1]
    if out.shape[1] == num_image:
        return None, out.flatten(2)
    texts, pixels = out.split([out.shape[1] - num_image, num_image], dim=1)
    return texts.flatten(2), pixels.flatten(2)
