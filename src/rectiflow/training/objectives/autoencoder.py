"""The objective of the autoencoder: reconstruction, edges, and a small KL term."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.training.objectives.base import Objective, Terms


@dataclass(frozen=True, kw_only=True)
class AutoencoderLoss:
    """Weights of the terms beside the reconstruction, whose weight is 1.

    Unstated in the paper: SD3 does not say how its autoencoder was trained. The usual perceptual
    and adversarial terms need a downloaded network or a second player; what they buy, sharp edges,
    the edge term asks for directly.

    Args:
        kl_weight: Weight of the KL divergence to N(0, 1), a mean over the latent's entries.
        edge_weight: Weight of the absolute error of the picture's first differences.
    """

    kl_weight: float = 1e-3
    edge_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("kl_weight", "edge_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


class AutoencoderObjective(Objective):
    """Loss of an autoencoder on a batch with `image` (batch, 3, height, width) in [-1, 1].

    The reconstruction term is the mean absolute error: its optimum is the conditional median, which
    keeps an edge a step where the mean (squared error) would smear it over the places it may be.
    """

    model: Autoencoder

    def __init__(self, model: Autoencoder, settings: AutoencoderLoss) -> None:
        self.model = model
        self.settings = settings

    def loss(self, batch: Mapping[str, Any], draws: Draws) -> Terms:
        """Per-sample loss and its terms; the posterior's noise is keyed by sample position."""
        image = batch["image"]
        factor, channels = self.model.factor, self.model.latent_channels
        shape = (channels, image.shape[-2] // factor, image.shape[-1] // factor)
        noise = torch.as_tensor(draws.normal("posterior", shape), device=image.device)
        result = self.model(image, noise)
        reconstruction = (result.image.float() - image).abs().mean(dim=(1, 2, 3))
        edge = edge_error(result.image.float(), image)
        kl = kl_to_standard_normal(result.mean.float(), result.log_variance.float())
        total = reconstruction + self.settings.edge_weight * edge + self.settings.kl_weight * kl
        return Terms(total, None, {"reconstruction": reconstruction, "edge": edge, "kl": kl})


def edge_error(
    image: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " batch"]:
    """Mean absolute difference of neighbouring-pixel differences, rows and columns averaged."""
    error = image - target
    columns = error.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    rows = error.diff(dim=-2).abs().mean(dim=(1, 2, 3))
    return (columns + rows) / 2


def kl_to_standard_normal(
    mean: Float[Tensor, "batch channels rows columns"],
    log_variance: Float[Tensor, "batch channels rows columns"],
) -> Float[Tensor, " batch"]:
    """KL(N(mean, variance) || N(0, 1)) in nats, averaged over the entries of each sample."""
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return divergence.mean(dim=(1, 2, 3))
