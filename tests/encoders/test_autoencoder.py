import json

import pytest
import torch
from diffusers import AutoencoderKL

from rectiflow.encoders.autoencoder import Autoencoder, measure_latent_statistics
from rectiflow.encoders.settings import AutoencoderModel
from rectiflow.errors import DataError

MODEL = AutoencoderModel(latent_channels=4, widths=(8, 8, 16, 16), norm_groups=4)


def images(num=3, size=(24, 16), seed=0):
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def autoencoder():
    model = Autoencoder.new(MODEL, seed=5)
    model.normalise_latents(mean=0.25, std=0.5)
    return model


@pytest.fixture
def folder(autoencoder, tmp_path):
    autoencoder.save(tmp_path / "vae")
    return tmp_path / "vae"


def test_latents_are_diffusers_mode_minus_shift_times_scale(autoencoder, folder):
    oracle = AutoencoderKL.from_pretrained(
        folder, local_files_only=True, low_cpu_mem_usage=False
    ).eval()
    assert (oracle.config["shift_factor"], oracle.config["scaling_factor"]) == (0.25, 2.0)
    with torch.no_grad():
        expected = (oracle.encode(images()).latent_dist.mode() - 0.25) * 2
        latent = autoencoder.encode(images())
        torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)
        expected = oracle.decode(latent / 2 + 0.25).sample
    torch.testing.assert_close(autoencoder.decode(latent), expected, rtol=0, atol=1e-5)


def test_a_draw_from_the_scaled_posterior_is_diffusers_draw_scaled(tmp_path):
    model = Autoencoder.new(MODEL, seed=5)
    model.normalise_latents(mean=0.25, std=0.2)
    with torch.no_grad():  # an untrained one has the same log variance everywhere
        model.network.encoder.conv_out.weight[4:].normal_(
            generator=torch.Generator().manual_seed(1)
        )
    model.save(tmp_path / "vae")
    oracle = AutoencoderKL.from_pretrained(
        tmp_path / "vae", local_files_only=True, low_cpu_mem_usage=False
    ).eval()
    with torch.no_grad():
        raw = oracle.encode(images()).latent_dist
    noise = torch.randn(raw.mean.shape, generator=torch.Generator().manual_seed(2))
    found = model.posterior(images())
    assert raw.logvar.std() > 0.1
    torch.testing.assert_close(found.log_variance.exp(), raw.var * 25, rtol=1e-4, atol=0)
    drawn = found.mean + (found.log_variance / 2).exp() * noise
    torch.testing.assert_close(drawn, (raw.mean + raw.std * noise - 0.25) * 5, rtol=0, atol=1e-4)


def test_a_side_of_eight_pixels_is_one_latent_position(autoencoder):
    assert autoencoder.factor == 8
    assert autoencoder.encode(images(size=(24, 16))).shape == (3, 4, 3, 2)
    with pytest.raises(ValueError, match=r"multiples of 8 px, got 20x24"):
        autoencoder.encode(images(size=(24, 20)))


def test_the_released_layout_has_no_quant_convolutions(autoencoder):
    assert not any("quant_conv" in name for name in autoencoder.state_dict())


def test_a_saved_autoencoder_is_the_same_autoencoder(autoencoder, folder):
    loaded = Autoencoder.load(folder)
    assert loaded.identity() == autoencoder.identity()
    assert (loaded.shift, loaded.scale) == (0.25, 2.0)
    torch.testing.assert_close(
        loaded.encode(images()), autoencoder.encode(images()), rtol=0, atol=1e-5
    )


def test_identity_sees_weights_and_normalisation_but_not_the_type_on_disk(autoencoder, tmp_path):
    autoencoder.save(tmp_path / "a", torch.bfloat16)
    rounded = Autoencoder.load(tmp_path / "a")
    assert rounded.identity() != autoencoder.identity()  # rounding changes the numbers
    rounded.save(tmp_path / "b")  # the same numbers in float32
    assert Autoencoder.load(tmp_path / "b").identity() == rounded.identity()
    before = rounded.identity()
    rounded.normalise_latents(mean=0.25, std=0.25)
    assert rounded.identity() != before
    with torch.no_grad():
        rounded.normalise_latents(mean=0.25, std=0.5)
        next(rounded.parameters()).view(-1)[0] += 1e-3
    assert rounded.identity() != before


def test_first_weights_are_a_function_of_the_seed_and_leave_the_global_one_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (Autoencoder.new(MODEL, seed=seed) for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert first.identity() == second.identity() != other.identity()


def test_statistics_are_those_of_all_raw_latents_and_normalise_them():
    model = Autoencoder.new(MODEL, seed=7)
    raw = torch.cat([model.encode(images(seed=seed)) for seed in range(4)]).double()
    mean, std = measure_latent_statistics(model, (images(seed=seed) for seed in range(4)))
    assert mean == pytest.approx(raw.mean().item(), rel=1e-6)
    assert std == pytest.approx(raw.std(correction=0).item(), rel=1e-6)
    model.normalise_latents(mean, std)
    scaled = torch.cat([model.encode(images(seed=seed)) for seed in range(4)])
    assert scaled.mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    # Measuring again gives the raw figures again, whatever the normalisation now is.
    again = measure_latent_statistics(model, [images(seed=seed) for seed in range(4)])
    assert again == pytest.approx((mean, std), rel=1e-5)


def test_statistics_of_nothing_are_refused(autoencoder):
    with pytest.raises(ValueError, match="at least one picture"):
        measure_latent_statistics(autoencoder, [])


def test_training_pass_decodes_mean_plus_std_times_noise(autoencoder):
    image, noise = images(), torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    result = autoencoder(image, noise)
    drawn = result.mean + (result.log_variance / 2).exp() * noise
    scaled = (drawn - autoencoder.shift) * autoencoder.scale
    torch.testing.assert_close(result.image, autoencoder.decode(scaled), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        (result.mean - autoencoder.shift) * autoencoder.scale, autoencoder.encode(image)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_channels": 0}, "latent_channels must be >= 1, got 0"),
        ({"widths": (8, 8, 8)}, "4 levels"),
        ({"widths": (8, 8, 8, 10)}, "norm_groups must divide"),
        ({"layers_per_block": 0}, "layers_per_block must be >= 1, got 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderModel(**{"norm_groups": 4, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"latent_channels": 8},
        {"widths": (8, 8, 8, 16)},
        {"layers_per_block": 2},
        {"norm_groups": 2},
        {"has_mid_attention": False},
    ],
)
def test_every_size_changes_the_network(change):
    sizes = {"latent_channels": 4, "widths": (8, 8, 16, 16), "norm_groups": 4, **change}
    changed = Autoencoder.new(AutoencoderModel(**sizes), seed=5)
    assert changed.identity() != Autoencoder.new(MODEL, seed=5).identity()


def test_damaged_and_missing_files_are_told_apart(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Autoencoder.load(tmp_path / "nothing")
    weights = folder / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=str(folder)):
        Autoencoder.load(folder)
    weights.unlink()
    with pytest.raises(DataError, match=str(folder)):
        Autoencoder.load(folder)


def test_weights_of_another_size_are_refused(folder, tmp_path):
    other = Autoencoder.new(AutoencoderModel(widths=(8, 8, 16, 16), norm_groups=4))
    other.save(tmp_path / "other")
    (folder / "config.json").write_text((tmp_path / "other" / "config.json").read_text())
    with pytest.raises(DataError, match=str(folder)):
        Autoencoder.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"scaling_factor": "x"},
        {"scaling_factor": 0},
        {"scaling_factor": None},
        {"shift_factor": [1]},
        {"shift_factor": True},
    ],
)
def test_a_scale_or_shift_that_is_no_number_is_refused(folder, change):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(DataError, match=r"config.json: scaling_factor must be a number > 0"):
        Autoencoder.load(folder)
