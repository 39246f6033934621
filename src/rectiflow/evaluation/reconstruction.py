"""What of a picture survives the autoencoder, as Table 3 of the SD3 paper asks: PSNR and SSIM."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.sampling.images import to_bytes

Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ReconstructionQuality:
    """Means over pictures.

    Attributes:
        psnr_db: Of each picture's own squared error, then averaged; 100 dB for an exact copy.
        ssim: Structural similarity, Gaussian window of std 1.5, averaged over channels.
        num_pictures: How many.
    """

    psnr_db: float
    ssim: float
    num_pictures: int


def reconstruction_quality(
    autoencoder: Autoencoder, pictures: Iterable[Picture], batch_size: int = 64
) -> ReconstructionQuality:
    """PSNR and SSIM of pictures sent through the autoencoder and back to bytes.

    Args:
        autoencoder: Encodes by its mode, so the figures are no matter of chance.
        pictures: All of one size.
        batch_size: Pictures sent through at once.

    Raises:
        ValueError: If there are no pictures.
    """
    ratios, similarities = [], []
    pictures = iter(pictures)
    while chunk := list(islice(pictures, batch_size)):
        original = _as_unit(chunk)
        restored = _as_unit(round_trip(autoencoder, chunk, batch_size))
        ratios.append(peak_signal_to_noise(restored, original))
        similarity = structural_similarity_index_measure(
            restored, original, data_range=1.0, reduction="none"
        )
        assert isinstance(similarity, Tensor)  # a tuple only where its parts are asked for
        similarities.append(similarity.reshape(-1))
    if not ratios:
        raise ValueError("reconstruction quality needs at least one picture, got none")
    ratio, similarity = torch.cat(ratios), torch.cat(similarities)
    return ReconstructionQuality(ratio.mean().item(), similarity.mean().item(), len(ratio))


@torch.no_grad()
def round_trip(
    autoencoder: Autoencoder, pictures: Sequence[Picture], batch_size: int = 64
) -> list[Picture]:
    """Pictures of one size encoded, decoded and rounded to bytes, `batch_size` at once."""
    device = next(autoencoder.parameters()).device
    restored: list[Picture] = []
    for start in range(0, len(pictures), batch_size):
        image = _as_unit(pictures[start : start + batch_size]).float() * 2 - 1
        restored.extend(to_bytes(autoencoder.decode(autoencoder.encode(image.to(device)))))
    return restored


def peak_signal_to_noise(
    restored: Float[Tensor, "batch channels height width"],
    original: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, " batch"]:
    """PSNR in dB of each picture of values in [0, 1], at most 100."""
    error = (restored - original).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=1e-10).log10()


def _as_unit(pictures: Sequence[Picture]) -> Tensor:
    """Bytes to float64 in [0, 1], channels first."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).double() / 255
