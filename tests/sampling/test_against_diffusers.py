"""Same weights, same noise, same picture as diffusers' SD3 pipelines."""

import numpy as np
import pytest
import torch

from rectiflow.conditioning import Conditioning
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel
from rectiflow.flow.formulations import formulation
from rectiflow.sampling.editing import Original
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.solving import Start, carry
from tests.nn.test_mmdit_against_diffusers import ours, theirs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WIDTH, HEIGHT, TOKENS = 96, 64, 7
SHAPE = (1, 16, HEIGHT // 8, WIDTH // 8)


@pytest.fixture(scope="module")
def network():
    return ours({"dual_attention": (0, 1)}, std=0.15).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def autoencoder():
    model = AutoencoderModel(latent_channels=16, widths=(8, 8, 8, 8), norm_groups=4)
    coder = Autoencoder.new(model, seed=1).eval()
    coder.normalise_latents(mean=0.0609, std=1 / 1.5305)  # a decoder that forgets the shift shows
    return coder


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(2)
    return [
        Conditioning(
            torch.randn(1, TOKENS, 24, generator=generator),
            torch.randn(1, 20, generator=generator),
            (TOKENS,),
        )
        for _ in range(2)
    ]


@pytest.fixture(scope="module")
def noise():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def peer(network, autoencoder):
    """Makes a diffusers pipeline of the same parts, without text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    def make(pipeline_class):
        pipe = pipeline_class(
            transformer=theirs(network).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=autoencoder.network,
            **dict.fromkeys(["text_encoder", "text_encoder_2", "text_encoder_3"]),
            **dict.fromkeys(["tokenizer", "tokenizer_2", "tokenizer_3"]),
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


def asked(texts, options, **more):
    """Arguments of a diffusers pipeline that mean our options."""
    cond, uncond = texts
    return {
        "prompt_embeds": cond.context,
        "pooled_prompt_embeds": cond.pooled,
        "negative_prompt_embeds": uncond.context,
        "negative_pooled_prompt_embeds": uncond.pooled,
        "num_inference_steps": options.num_steps,
        "guidance_scale": options.guidance_scale,
        **more,
    }


def drawn(network, noise, texts, options, start=None):
    with torch.no_grad():
        return carry(network, formulation("rf"), noise, *texts, options, start)


@pytest.mark.parametrize("layers", [(), (1,), (0, 2)], ids=["no layers", "one", "two"])
def test_pictures_with_and_without_skip_layer_guidance_are_those_of_diffusers(
    network, autoencoder, texts, noise, peer, layers
):
    from diffusers import StableDiffusion3Pipeline

    options = SamplingOptions(
        num_steps=9, guidance_scale=5.0, shift=3.0, grid="sd3",
        skip_layers=layers, skip_scale=2.8, skip_start=0.12, skip_end=0.56,
    )  # fmt: skip
    expected = peer(StableDiffusion3Pipeline)(
        **asked(texts, options, latents=noise, width=WIDTH, height=HEIGHT, output_type="np"),
        skip_guidance_layers=list(layers) or None,
        skip_layer_guidance_scale=2.8,
        skip_layer_guidance_start=0.12,
        skip_layer_guidance_stop=0.56,
    ).images
    latent = drawn(network, noise, texts, options)
    picture = (autoencoder.decode(latent) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(picture - expected).max() < 1e-3
    assert expected.std() > 0.01  # not one grey
    if layers:
        plain = drawn(network, noise, texts, SamplingOptions(
            num_steps=9, guidance_scale=5.0, shift=3.0, grid="sd3"
        ))  # fmt: skip
        assert (plain - latent).abs().max() > 0.1


@pytest.mark.parametrize("strength", [1.0, 0.6, 0.3])
def test_latents_from_a_picture_are_those_of_diffusers(network, texts, noise, peer, strength):
    from diffusers import StableDiffusion3Img2ImgPipeline

    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    options = SamplingOptions(num_steps=8, guidance_scale=4.0, shift=3.0, grid="sd3")
    expected = peer(StableDiffusion3Img2ImgPipeline)(
        **asked(texts, options, image=latent, strength=strength, output_type="latent"),
        width=WIDTH,
        height=HEIGHT,
        generator=torch.Generator().manual_seed(3),
    ).images
    found = drawn(network, noise, texts, options, Start(latent, None, strength))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_latents_under_a_mask_are_those_of_diffusers(network, texts, noise, peer, strength):
    from diffusers import StableDiffusion3InpaintPipeline

    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[16:40, 24:72] = True
    options = SamplingOptions(num_steps=8, guidance_scale=4.0, shift=3.0, grid="sd3")
    expected = peer(StableDiffusion3InpaintPipeline)(
        **asked(texts, options, image=latent, strength=strength, output_type="latent"),
        mask_image=torch.from_numpy(mask).float()[None, None],
        masked_image_latents=latent,
        width=WIDTH,
        height=HEIGHT,
        generator=torch.Generator().manual_seed(3),
    ).images
    redrawn = Original(np.zeros((HEIGHT, WIDTH, 3), np.uint8), mask).redrawn_latents(8)
    found = drawn(network, noise, texts, options, Start(latent, redrawn, strength))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found[..., 0, :].equal(latent[..., 0, :])
