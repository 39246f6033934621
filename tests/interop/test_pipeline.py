"""A model that we trained, exported: StableDiffusion3Pipeline loads it and draws what we draw."""

import pytest
import torch

from rectiflow.conditioning import Conditioning
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.interop.conversion import convert, plan
from rectiflow.sampling.bundle import packaged_bundles
from rectiflow.sampling.load import load

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers, of which there are many
PROMPTS = ["two red circles", "a blue star left of a green square"]
NUM_STEPS = 4


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
        StableDiffusion3Pipeline,
    )

    source = open_checkpoint(packaged_bundles() / "scenes-tiny")
    folder = convert(plan(source, "diffusers", tmp_path_factory.mktemp("exported") / "folder"))
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours():
    pipeline = load("scenes-tiny", precision="fp32")
    pipeline.unconditional_text = "empty"
    return pipeline


def test_the_exported_network_has_the_same_velocity(theirs, ours):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 16, 8, 12, generator=generator)
    context = torch.randn(3, 9, 192, generator=generator)
    pooled, t = torch.randn(3, 160, generator=generator), torch.tensor([0.02, 0.5, 1])
    with torch.no_grad():
        expected = ours.network(x, t, Conditioning(context, pooled, (4, 5)))
        velocity = theirs.transformer(x, context, pooled, 1000 * t, return_dict=False)[0]
    assert expected.std() > 0.1
    assert (velocity - expected).norm() / expected.norm() < 1e-5


def test_the_pipeline_knows_its_size_and_shift(theirs, ours):
    assert theirs.default_sample_size * theirs.vae_scale_factor == ours.side_px
    assert theirs.scheduler.config.shift == 1
    assert theirs.patch_size == ours.network.config.patch_size


@pytest.mark.parametrize("size", [(64, 64), (48, 64)], ids=str)
def test_from_the_same_noise_it_draws_the_same_pictures_to_1e_3(size, theirs, ours):
    noise = torch.stack([ours.noise(0, i, size) for i in range(len(PROMPTS))])
    options = ours.with_options({"num_steps": NUM_STEPS, "guidance_scale": 3.0, "size": size})
    with torch.no_grad():
        expected = ours.autoencoder.decode(ours.solve(PROMPTS, noise, options)) / 2 + 0.5
    pictures = theirs(
        PROMPTS,
        width=size[0],
        height=size[1],
        num_inference_steps=NUM_STEPS,
        sigmas=[1 - i / NUM_STEPS for i in range(NUM_STEPS)],  # our grid; theirs ends at 0.001
        guidance_scale=3.0,
        latents=noise,
        max_sequence_length=ours.text.segments[1],
        output_type="pt",
    ).images
    assert expected.std() > 0.05
    assert (pictures - expected.clamp(0, 1)).abs().max() < 1e-3
