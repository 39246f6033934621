"""How well an autoencoder keeps the pictures that a model is about to be trained on."""

import math
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor

from rectiflow.data.picture_source import as_images
from rectiflow.data.records import BadRecord, RecordSource

WARNING_DB: Final = 24.0
"""Below this the latents have lost what a model should learn; shapes are visibly smeared."""


@runtime_checkable
class RoundTrip(Protocol):
    """What is needed of the autoencoder."""

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


@torch.no_grad()
def reconstruction_psnr(
    source: RecordSource,
    autoencoder: RoundTrip,
    *,
    num_pictures: int = 16,
    device: torch.device | str = "cpu",
) -> float:
    """Mean PSNR in dB, peak to peak 2, of pictures spread evenly over the source.

    Pictures that cannot be used are passed over; preparation counts them.

    Raises:
        ValueError: If none can be used.
    """
    ratios = []
    tried = range(len(source))
    evenly = tried[:: max(1, -(-len(source) // num_pictures))]
    for index in [*evenly, *(index for index in tried if index not in evenly)]:
        if len(ratios) == num_pictures:
            break
        try:
            pixels = source.record(index).load().image
        except BadRecord:
            continue
        image = as_images([pixels]).to(device)
        decoded = autoencoder.decode(autoencoder.encode(image)).float().clamp(-1, 1)
        ratios.append(psnr((decoded - image).square().mean().item()))
    if not ratios:
        raise ValueError("no picture can be used, so none could be reconstructed")
    return sum(ratios) / len(ratios)


def psnr(mean_square_error: float, peak_to_peak: float = 2.0) -> float:
    """10 log10(peak^2 / error) in dB; 100 for an exact copy."""
    if mean_square_error <= peak_to_peak**2 * 1e-10:
        return 100.0
    return 10 * math.log10(peak_to_peak**2 / mean_square_error)


def reconstruction_warning(ratio: float, path: str) -> str | None:
    """What to tell whoever trains on pictures that the autoencoder cannot keep, None if it can."""
    if ratio >= WARNING_DB:
        return None
    return (
        f"the autoencoder keeps these pictures at {ratio:.1f} dB, and below {WARNING_DB:.0f} dB a "
        "model learns its blur: train one on them with `rectiflow train autoencoder-tiny "
        f"--set data.path={path}` and name its run in encoders.autoencoder"
    )
