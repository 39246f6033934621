"""The objective of the autoencoder: reconstruction, edges, and a small KL term."""

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.training.objectives.base import Batch, Objective, Terms
from rectiflow.training.settings.objectives import AutoencoderLoss


class AutoencoderObjective(Objective):
    """Loss of an autoencoder on a batch with `image` (batch, 3, height, width) in [-1, 1].

    Reconstruction and edges are squared errors. Measured on scenes (64 px, the same 45 s on one
    core): squared 25.9 dB, absolute 20.6 dB. The median that the absolute error asks for is the
    grey background until a position is known, so small bright things start with no gradient; with
    squared errors they are what is learned first.
    """

    model: Autoencoder

    def __init__(self, model: Autoencoder, settings: AutoencoderLoss) -> None:
        self.model = model
        self.settings = settings

    def loss(self, batch: Batch, draws: Draws) -> Terms:
        """Per-sample loss and its terms; the posterior's noise is keyed by sample position."""
        image = batch["image"]
        factor, channels = self.model.factor, self.model.latent_channels
        shape = (channels, image.shape[-2] // factor, image.shape[-1] // factor)
        noise = torch.as_tensor(draws.normal("posterior", shape), device=image.device)
        result = self.model(image, noise)
        reconstruction = (result.image.float() - image).square().mean(dim=(1, 2, 3))
        edge = edge_error(result.image.float(), image)
        kl = kl_to_standard_normal(result.mean.float(), result.log_variance.float())
        total = reconstruction + self.settings.edge_weight * edge + self.settings.kl_weight * kl
        extra = {"reconstruction": reconstruction, "edge": edge, "kl": kl}
        extra = {name: term.detach() for name, term in extra.items()}
        return Terms(total, None, extra)


def edge_error(
    image: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " batch"]:
    """Mean squared error of first differences along rows and columns, the two averaged.

    It vanishes for a wrong constant and is largest where an edge is blurred or misplaced: the part
    of the error that decides whether a shape or a letter can still be told.
    """
    error = image - target
    columns = error.diff(dim=-1).square().mean(dim=(1, 2, 3))
    rows = error.diff(dim=-2).square().mean(dim=(1, 2, 3))
    return (columns + rows) / 2


def kl_to_standard_normal(
    mean: Float[Tensor, "batch channels rows columns"],
    log_variance: Float[Tensor, "batch channels rows columns"],
) -> Float[Tensor, " batch"]:
    """KL(N(mean, variance) || N(0, 1)) in nats, averaged over the entries of each sample."""
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return divergence.mean(dim=(1, 2, 3))
