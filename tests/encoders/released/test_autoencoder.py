import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from rectiflow.encoders.released.autoencoder import SCALE, SHIFT, released_autoencoder
from rectiflow.errors import DataError
from tests.encoders.released.ldm import LAYERS, WIDTHS, ldm_tensors


@pytest.fixture(scope="module")
def oracle():
    """The same weights through diffusers' own converter."""
    levels = len(WIDTHS)
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": WIDTHS,
        "layers_per_block": LAYERS,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    model = AutoencoderKL(**config)
    model.load_state_dict(convert_ldm_vae_checkpoint(ldm_tensors(), config))
    return model.eval()


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_latents_are_diffusers_mode_minus_shift_times_scale(oracle, image):
    latent = released_autoencoder(ldm_tensors(), "file").encode(image)
    with torch.no_grad():
        expected = (oracle.encode(image).latent_dist.mode() - 0.0609) * 1.5305
    torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)
    assert (SCALE, SHIFT) == (1.5305, 0.0609)


def test_decoding_undoes_scale_and_shift(oracle):
    latent = torch.randn(2, 16, 3, 2, generator=torch.Generator().manual_seed(2))
    image = released_autoencoder(ldm_tensors(), "file").decode(latent)
    with torch.no_grad():
        expected = oracle.decode(latent / 1.5305 + 0.0609).sample
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_it_is_the_same_autoencoder_in_either_layout(oracle, image, tmp_path):
    model = released_autoencoder(ldm_tensors(), "file")
    half = {name: value.bfloat16() for name, value in ldm_tensors().items()}
    assert {p.dtype for p in released_autoencoder(half, "file").parameters()} == {torch.float32}
    model.save(tmp_path / "vae")
    reloaded = type(model).load(tmp_path / "vae")
    assert (reloaded.scale, reloaded.shift) == (1.5305, 0.0609)
    assert reloaded.identity() == model.identity()
    assert (model.factor, model.latent_channels) == (8, 16)


def test_tensors_that_do_not_fit_are_listed():
    tensors = ldm_tensors()
    with pytest.raises(DataError, match=r"file does not fit AutoencoderKL; unknown: extra\.weight"):
        released_autoencoder({**tensors, "extra.weight": torch.ones(1)}, "file")
    shortcut = tensors.pop("decoder.up.0.block.0.nin_shortcut.weight")
    missing = r"missing: decoder\.up_blocks\.3\.resnets\.0\.conv_shortcut\.weight"
    with pytest.raises(DataError, match=missing):
        released_autoencoder(tensors, "file")
    tensors["decoder.up.0.block.0.nin_shortcut.weight"] = shortcut[:, :3]
    with pytest.raises(DataError, match="of another shape"):
        released_autoencoder(tensors, "file")
    with pytest.raises(DataError, match="file is no autoencoder"):
        released_autoencoder({"x": torch.ones(1)}, "file")


def test_the_autoencoder_of_another_model_is_refused():
    with pytest.raises(DataError, match="16 channels, its have 4"):
        released_autoencoder(ldm_tensors(channels=4), "file")
