"""CrossDiT, a baseline of SD3 (arXiv:2403.03206, Fig. 4): DiT that attends across to the text."""

from torch import Tensor

from rectiflow.nn.single_stream import SingleStream, SingleStreamConfig


class CrossDiTConfig(SingleStreamConfig):
    """Shape of a CrossDiT; the fields of `SingleStreamConfig`."""


class CrossDiT(SingleStream):
    """Velocity field of a latent picture, given a text that every block attends across to.

    The sequence holds image tokens alone. Unstated in the paper: everything but that it follows
    PixArt-alpha (arXiv:2310.00426). From there come the place of cross attention, without norm or
    gate between self-attention and perceptron, and its start at 0; all else is as in our DiT, the
    pooled text and the modulation of every block by weights of its own among it.
    """

    def __init__(self, config: CrossDiTConfig) -> None:
        super().__init__(config, has_cross=True)

    def through_blocks(self, context: Tensor, image: Tensor, activated: Tensor) -> Tensor:
        for block in self.blocks:
            image = block(image, activated, context)
        return image
