import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from rectiflow.encoders.released.autoencoder import SCALE, SHIFT, released_autoencoder
from rectiflow.errors import DataError

WIDTHS = (32, 64, 64, 96)
LAYERS = 2


def ldm_tensors(channels=16, widths=WIDTHS, seed=0):
    """Random weights under the names of the original code, whose structure is written out here."""
    tensors, generator = {}, torch.Generator().manual_seed(seed)

    def conv(name, inputs, outputs, side=3):
        fan_in = inputs * side * side
        weight = torch.randn(outputs, inputs, side, side, generator=generator) / fan_in**0.5
        tensors[f"{name}.weight"] = weight
        tensors[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    def norm(name, width):
        tensors[f"{name}.weight"] = 1 + 0.2 * torch.randn(width, generator=generator)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)

    def block(name, inputs, outputs):
        norm(f"{name}.norm1", inputs)
        conv(f"{name}.conv1", inputs, outputs)
        norm(f"{name}.norm2", outputs)
        conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", inputs, outputs, 1)

    def middle(name, width):
        block(f"{name}.block_1", width, width)
        norm(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.attn_1.{part}", width, width, 1)
        block(f"{name}.block_2", width, width)

    conv("encoder.conv_in", 3, widths[0])
    inputs = widths[0]
    for level, width in enumerate(widths):
        for number in range(LAYERS):
            block(f"encoder.down.{level}.block.{number}", inputs, width)
            inputs = width
        if level < len(widths) - 1:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder.mid", widths[-1])
    norm("encoder.norm_out", widths[-1])
    conv("encoder.conv_out", widths[-1], 2 * channels)
    conv("decoder.conv_in", channels, widths[-1])
    middle("decoder.mid", widths[-1])
    for level in reversed(range(len(widths))):
        for number in range(LAYERS + 1):
            block(f"decoder.up.{level}.block.{number}", inputs, widths[level])
            inputs = widths[level]
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", inputs, inputs)
    norm("decoder.norm_out", widths[0])
    conv("decoder.conv_out", widths[0], 3)
    return tensors


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
