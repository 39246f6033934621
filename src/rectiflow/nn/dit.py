"""DiT on text and image in one sequence, a baseline of SD3 (arXiv:2403.03206, Fig. 4)."""

import torch
from torch import Tensor

from rectiflow.nn.single_stream import SingleStream, SingleStreamConfig


class DiTConfig(SingleStreamConfig):
    """Shape of a DiT; the fields of `SingleStreamConfig`."""


class DiT(SingleStream):
    """Velocity field of a latent picture, given a text: one sequence, one set of weights.

    Unstated in the paper: everything but that text and image tokens are joined and share weights.
    All else is as in our MM-DiT, so that the number of weight sets is what differs.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(config, has_cross=False)

    def through_blocks(self, context: Tensor, image: Tensor, activated: Tensor) -> Tensor:
        tokens = torch.cat([context, image], dim=1)
        for block in self.blocks:
            tokens = block(tokens, activated)
        return tokens[:, context.shape[1] :]
