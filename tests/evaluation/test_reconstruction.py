import math

import numpy as np
import pytest
import torch

from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel
from rectiflow.evaluation.reconstruction import (
    peak_signal_to_noise,
    reconstruction_quality,
    round_trip,
)

MODEL = AutoencoderModel(latent_channels=4, widths=(8, 8, 8, 8), norm_groups=4)


class Faded(Autoencoder):
    """An autoencoder that adds a constant to every value and loses nothing else."""

    def encode(self, image):
        return image

    def decode(self, latent):
        return latent + 2 * 10 / 255


def pictures(num=5):
    return list(np.random.default_rng(0).integers(20, 200, (num, 32, 32, 3), dtype=np.uint8))


def test_psnr_of_a_constant_error_is_known():
    faded = Faded(Autoencoder.new(MODEL).network)
    quality = reconstruction_quality(faded, pictures(), batch_size=2)
    assert quality.psnr_db == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert quality.num_pictures == 5
    assert 0.9 < quality.ssim < 1  # structure is whole, brightness is not
    assert all(
        (a - b == 10).all() for a, b in zip(round_trip(faded, pictures()), pictures(), strict=True)
    )


def test_psnr_is_averaged_over_pictures_not_over_errors():
    original = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    restored = torch.tensor([0.1, 0.01], dtype=torch.float64)[:, None, None, None]
    assert peak_signal_to_noise(restored, original).tolist() == pytest.approx([20, 40])
    assert peak_signal_to_noise(original, original).tolist() == [100, 100]


def test_an_untrained_autoencoder_is_far_from_its_pictures_and_nothing_is_refused():
    model = Autoencoder.new(MODEL)
    assert reconstruction_quality(model, pictures()).psnr_db < 15
    with pytest.raises(ValueError, match="at least one picture"):
        reconstruction_quality(model, [])


def test_pictures_go_through_in_batches_and_come_back_in_order():
    faded = Faded(Autoencoder.new(MODEL).network)
    together, apart = round_trip(faded, pictures()), round_trip(faded, pictures(), batch_size=2)
    assert len(together) == len(apart) == 5
    assert all((a == b).all() for a, b in zip(together, apart, strict=True))
