"""The autoencoder: pictures to latents and back, around diffusers' `AutoencoderKL`.

A latent is (mode of the posterior - shift) * scale with two scalars measured over training
pictures (arXiv 2403.03206, B.2; diffusers' `shift_factor` and `scaling_factor`). The scaled latent
is the only one the rest of the package sees.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from rectiflow.encoders.folders import content_hash, load_pretrained, model_facts, save_pretrained
from rectiflow.encoders.settings import AutoencoderModel
from rectiflow.errors import DataError

Image = Float[Tensor, "batch 3 height width"]
Latent = Float[Tensor, "batch channels rows columns"]


@dataclass(frozen=True)
class Reconstruction:
    """What one training pass of the autoencoder yields.

    Attributes:
        image: The decoded sample of the posterior, in the picture's range.
        mean: Mean of the posterior, unscaled.
        log_variance: Its log variance, clamped to [-30, 20] as in the released models.
    """

    image: Image
    mean: Latent
    log_variance: Latent


@dataclass(frozen=True)
class LatentPosterior:
    """What a picture may be as a scaled latent: independent normals.

    Attributes:
        mean: The latent that training sees unless it draws; its mode too.
        log_variance: Natural logarithm of the variance of the scaled latent, which is that of the
            autoencoder's own, clamped to [-30, 20], plus 2 ln(scale).
    """

    mean: Latent
    log_variance: Latent


FIRST_LOG_VARIANCE = -4.0
"""Of the posterior of an untrained autoencoder. At 0, the usual start, the noise of the posterior
drowns the mean for the first hundreds of steps."""


class Autoencoder(nn.Module):
    """Pictures in [-1, 1] to scaled latents and back.

    Attributes:
        network: The `AutoencoderKL`, whose configuration carries shift and scale.
    """

    def __init__(self, network: AutoencoderKL) -> None:
        super().__init__()
        self.network: Any = network  # diffusers' own annotations are narrower than what it takes

    @classmethod
    def new(cls, model: AutoencoderModel, seed: int = 0) -> "Autoencoder":
        """An untrained autoencoder whose weights are a function of `seed`; global RNG untouched."""
        levels = len(model.widths)
        settings: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": tuple(model.widths),
            "layers_per_block": model.layers_per_block,
            "norm_num_groups": model.norm_groups,
            "latent_channels": model.latent_channels,
            "mid_block_add_attention": model.has_mid_attention,
            "use_quant_conv": False,  # as the released SD3 autoencoder
            "use_post_quant_conv": False,
            "scaling_factor": 1.0,
            "shift_factor": 0.0,
            "force_upcast": False,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: Any = AutoencoderKL(**settings)
        with torch.no_grad():
            log_variance = slice(model.latent_channels, None)
            network.encoder.conv_out.weight[log_variance] = 0
            network.encoder.conv_out.bias[log_variance] = FIRST_LOG_VARIANCE
        return cls(network)

    @classmethod
    def load(cls, folder: Path | str) -> "Autoencoder":
        """Read a diffusers `AutoencoderKL` folder (`config.json` and safetensors), in float32.

        Raises:
            FileNotFoundError: If the folder or its configuration is missing.
            DataError: If a file in it is damaged, or scale or shift is none.
        """
        network = load_pretrained(AutoencoderKL, Path(folder), low_cpu_mem_usage=False).float()
        scale, shift = (network.config.get(f"{name}_factor") for name in ("scaling", "shift"))
        if not _is_number(scale) or scale <= 0 or not (shift is None or _is_number(shift)):
            raise DataError(
                f"{folder}/config.json: scaling_factor must be a number > 0 and shift_factor a "
                f"number or null, got {scale!r} and {shift!r}"
            )
        return cls(network)

    def save(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder that `AutoencoderKL.from_pretrained` loads, its weights in `dtype`."""
        save_pretrained(self.network, Path(folder), dtype)

    @property
    def factor(self) -> int:
        """Pixels per latent position along a side."""
        return 2 ** (len(self.network.config["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        return self.network.config["latent_channels"]

    @property
    def shift(self) -> float:
        """Subtracted from a raw latent; 0 where a foreign configuration leaves it out."""
        return self.network.config.get("shift_factor") or 0.0

    @property
    def scale(self) -> float:
        """Multiplies a raw latent after the shift."""
        return self.network.config["scaling_factor"]

    def identity(self) -> str:
        """SHA-256 over configuration and weights; the same before and after a save in float32."""
        return content_hash(model_facts(self.network.config), self.network.state_dict())

    def normalise_latents(self, mean: float, std: float) -> None:
        """Set shift and scale so that latents of this mean and std become 0 and 1."""
        if not std > 0:
            raise ValueError(f"std of the latents must be > 0, got {std}")
        self.network.register_to_config(shift_factor=mean, scaling_factor=1 / std)

    def forward(self, image: Image, noise: Latent) -> Reconstruction:
        """Encode, draw the posterior with the given standard normal `noise`, decode."""
        posterior = self._posterior(image)
        drawn = posterior.mean + posterior.std * noise
        decoded = self.network.decode(drawn, return_dict=False)[0]
        return Reconstruction(decoded, posterior.mean, posterior.logvar)

    @torch.no_grad()
    def encode(self, image: Image) -> Latent:
        """The scaled latent of a picture: the mode of the posterior, no randomness."""
        return self.posterior(image).mean

    @torch.no_grad()
    def posterior(self, image: Image) -> LatentPosterior:
        """The distribution of the scaled latent of a picture."""
        raw = self._posterior(image)
        log_variance = raw.logvar + 2 * math.log(self.scale)
        return LatentPosterior((raw.mean - self.shift) * self.scale, log_variance)

    @torch.no_grad()
    def decode(self, latent: Latent) -> Image:
        """The picture of a scaled latent; not clamped, so it may leave [-1, 1] by a little."""
        return self.network.decode(latent / self.scale + self.shift, return_dict=False)[0]

    def _posterior(self, image: Image):
        height, width = image.shape[-2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"both sides must be multiples of {self.factor} px, got {width}x{height}"
            )
        return self.network.encode(image, return_dict=False)[0]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(cast(float, value))


@torch.no_grad()
def measure_latent_statistics(model: Autoencoder, images: Iterable[Image]) -> tuple[float, float]:
    """Mean and std of the unscaled latents over all channels, positions and pictures.

    Two scalars, not one pair per channel, as the method's normalisation (arXiv 2403.03206, B.2).
    Accumulated in float64; pass at least a few hundred pictures.

    Raises:
        ValueError: If `images` is empty.
    """
    device = next(model.parameters()).device
    count, total, total_square = 0, 0.0, 0.0
    for image in images:
        raw = (model.encode(image.to(device)) / model.scale + model.shift).cpu().double()
        count += raw.numel()
        total += raw.sum().item()
        total_square += raw.square().sum().item()
    if count == 0:
        raise ValueError("latent statistics need at least one picture, got none")
    mean = total / count
    return mean, max(total_square / count - mean**2, 0.0) ** 0.5
