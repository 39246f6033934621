from types import SimpleNamespace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from rectiflow.flow.solvers import SOLVERS
from rectiflow.sampling.images import to_bytes
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.pipeline import picture_generator
from rectiflow.training.settings.sampling import SamplingSettings
from tests.sampling import tiny
from tests.sampling.tiny import CAPTIONS, pipeline

PROMPTS = ["two red circles", "a blue star", 'the word "CAT"', "a green square", "a star"]


class TowardsTarget(nn.Module):
    """The exact velocity of data that is a single latent: (x - target) / t."""

    config = SimpleNamespace(latent_channels=4, latent_multiple=2, max_latent_side=8)

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, x, t, cond):
        return (x - self.target) / t.view(-1, 1, 1, 1)


class PooledMean(nn.Module):
    """A velocity that is one number per text, the same everywhere."""

    config = SimpleNamespace(latent_channels=4, latent_multiple=2, max_latent_side=8)

    def forward(self, x, t, cond):
        return cond.pooled.mean(dim=1).view(-1, 1, 1, 1).expand_as(x)


class BlockCounter(nn.Module):
    """A velocity that is how many of its 4 blocks are left."""

    config = SimpleNamespace(latent_channels=4, latent_multiple=2, max_latent_side=8, depth=4)

    def forward(self, x, t, cond, skip_blocks=()):
        return torch.full_like(x, 4.0 - len(skip_blocks))


def worst(pictures, others):
    pairs = zip(pictures, others, strict=True)
    return max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs)


def test_the_exact_flow_ends_at_the_data_whatever_the_noise():
    target = torch.linspace(-1, 1, 4 * 4 * 4).reshape(1, 4, 4, 4)
    model = pipeline(TowardsTarget(target))
    options = SamplingOptions(num_steps=5, guidance_scale=1.0)
    latent = model.solve(PROMPTS, torch.randn(5, 4, 4, 4), options)
    torch.testing.assert_close(latent, target.expand_as(latent), atol=1e-5, rtol=0)


def test_the_picture_is_the_decoded_latent():
    target = torch.linspace(-1, 1, 4 * 4 * 4).reshape(1, 4, 4, 4)
    image = pipeline(TowardsTarget(target)).sample("a star", guidance_scale=1.0)[0]
    expected = to_bytes(tiny.autoencoder().decode(target))
    assert worst([image], expected) <= 1


def test_guidance_extrapolates_from_the_unconditional_text():
    model = pipeline(PooledMean())
    noise = torch.zeros(1, 4, 4, 4)
    states = tiny.text().encode(["two red circles", "a star"])
    cond, away = (torch.cat([states.pooled_l, states.pooled_g], -1)).mean(-1)

    def drawn(scale, negative=""):
        options = SamplingOptions(num_steps=4, guidance_scale=scale, negative=negative)
        return model.solve(["two red circles"], noise, options).mean()

    torch.testing.assert_close(drawn(1.0), -cond)
    torch.testing.assert_close(drawn(4.0), -4 * cond)  # unconditional text is zeros
    torch.testing.assert_close(drawn(4.0, "a star"), -(away + 4 * (cond - away)))


def test_the_unconditional_text_may_be_the_encoding_of_nothing():
    model = pipeline(PooledMean(), unconditional_text="empty")
    states = tiny.text().encode(["two red circles", ""])
    cond, away = (torch.cat([states.pooled_l, states.pooled_g], -1)).mean(-1)
    options = SamplingOptions(num_steps=2, guidance_scale=3.0)
    drawn = model.solve(["two red circles"], torch.zeros(1, 4, 4, 4), options).mean()
    torch.testing.assert_close(drawn, -(away + 3 * (cond - away)))


def test_noise_is_a_function_of_seed_and_index_alone():
    model = pipeline()
    first = [model.noise(7, i) for i in range(4)]
    assert all(torch.equal(model.noise(7, i), first[i]) for i in reversed(range(4)))
    torch.manual_seed(1)
    assert torch.equal(model.noise(7, 2), first[2])
    every = torch.stack([*first, model.noise(8, 0), model.noise(0, 7)])
    assert len(torch.unique(every.flatten(1), dim=0)) == 6


def test_seeds_that_differ_in_high_bits_differ():
    draws = {
        torch.rand((), generator=picture_generator(seed, index)).item()
        for seed in (0, 1, 2**32, 2**32 + 1, 2**63, -1)
        for index in (0, 1, 2**32)
    }
    assert len(draws) == 18


def test_the_noise_is_standard_normal():
    model = pipeline()
    values = torch.stack([model.noise(3, i, (64, 64)) for i in range(200)])
    assert abs(values.mean().item()) < 4 / values.numel() ** 0.5
    assert values.std().item() == pytest.approx(1, abs=0.02)


def test_a_picture_does_not_depend_on_the_batch():
    model = pipeline()
    alone = [model.sample(PROMPTS, batch_size=1), model.sample(PROMPTS, batch_size=3)]
    together = model.sample(PROMPTS, batch_size=5)
    assert worst(alone[0], together) <= 1
    assert worst(alone[1], together) <= 1
    assert worst(together[:1], together[1:2]) > 1  # the comparison can fail


def test_pictures_of_a_prompt_follow_each_other():
    model = pipeline()
    images = model.sample(CAPTIONS[:2], num_images_per_prompt=2, seed=5)
    assert [image.info["prompt"] for image in images] == [CAPTIONS[0]] * 2 + [CAPTIONS[1]] * 2
    assert [image.info["index"] for image in images] == [0, 1, 2, 3]
    keys = [(5, i) for i in range(4)]
    drawn = model.draw([CAPTIONS[0]] * 2 + [CAPTIONS[1]] * 2, keys)
    assert worst(images, drawn) == 0


def test_a_negative_equal_to_the_prompt_cancels_guidance():
    model = pipeline()
    plain = model.sample("a blue star", guidance_scale=1.0)
    cancelled = model.sample("a blue star", guidance_scale=6.0, negative="a blue star")
    assert worst(plain, cancelled) <= 1
    assert worst(plain, model.sample("a blue star", guidance_scale=6.0)) > 1


def test_without_every_encoder_the_prompt_is_the_unconditional_text():
    model = pipeline()
    nothing = ("clip_l", "clip_g", "t5")
    a = model.sample("a blue star", without=nothing, guidance_scale=6.0)
    b = model.sample("two red circles", without=nothing, guidance_scale=1.0)
    assert worst(a, b) <= 1
    assert worst(a, model.sample("a blue star", without=("t5",))) > 1


GUIDED = {"skip_layers": (0,), "skip_start": 0.2, "skip_end": 0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"skip_layers": (1,)},
        {"skip_scale": 1.0},
        {"skip_start": 0.3},  # of 4 steps: step 1 no longer
        {"skip_end": 0.9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_of_skip_layer_guidance_changes_the_picture(change):
    model = pipeline(tiny.network(depth=3))
    first = {**GUIDED, "skip_end": 0.6, "num_steps": 4}
    drawn = model.sample("a blue star", **first)
    assert worst(drawn, model.sample("a blue star", **{**first, **change})) > 0


def test_recipes_know_every_solver():
    assert get_args(get_type_hints(SamplingSettings)["solver"]) == tuple(SOLVERS)


def test_the_solvers_differ_from_each_other():
    model = pipeline()
    steps = {
        name: {} if solver.is_adaptive else {"num_steps": 6} for name, solver in SOLVERS.items()
    }
    drawn = [
        model.sample("a star", solver=name, guidance_scale=1.0, **steps[name])[0]
        for name in SOLVERS
    ]
    assert len({np.asarray(image).tobytes() for image in drawn}) == len(SOLVERS)


def test_skip_layer_guidance_leads_away_from_the_network_without_its_blocks():
    """cfg + scale (cond - cond_skip) at steps strictly between the shares, and nowhere else."""
    model = pipeline(BlockCounter())
    options = SamplingOptions(
        num_steps=10, guidance_scale=3.0, skip_layers=(1, 2), skip_scale=2.5, skip_end=0.4
    )
    latent = model.solve(["a star"], torch.zeros(1, 4, 4, 4), options)
    # velocity: 4 blocks, or 2; text and no text agree, so that guidance changes nothing
    expected = -(10 * 4 + 3 * 2.5 * (4 - 2)) / 10  # steps 1, 2 and 3 of 10
    torch.testing.assert_close(latent, torch.full((1, 4, 4, 4), expected))


def test_networks_without_the_blocks_are_refused_by_name():
    with pytest.raises(ValueError, match=r"MM-DiT can; PooledMean cannot"):
        pipeline(PooledMean()).sample("a star", **GUIDED, num_steps=9)
    with pytest.raises(ValueError, match=r"blocks from 0 to 3, got \(7, 8\)"):
        pipeline(BlockCounter()).sample("a star", **{**GUIDED, "skip_layers": (7, 8)}, num_steps=9)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"num_steps": 4},
        {"guidance_scale": 9.0},
        {"negative": "a green square"},
        {"solver": "heun"},
        {"shift": 3.0},
        {"grid": "sd3"},
        {"solver": "dpmpp_2m"},
        {"guidance_method": "apg"},
        {"guidance_start": 0.5},
        {"guidance_end": 0.5},
        {"skip_layers": (0,), "skip_end": 1.0},
        {"without": ("t5",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_option_changes_the_picture(change):
    model = pipeline()
    assert worst(model.sample("a blue star"), model.sample("a blue star", **change)) > 0


def test_sizes_are_width_by_height_up_to_the_table():
    model = pipeline()
    assert model.sample("a star")[0].size == (32, 32)
    assert model.sample("a star", size=(48, 32))[0].size == (48, 32)
    with pytest.raises(ValueError, match="multiples of 16 px, got 40x32"):
        model.sample("a star", size=(40, 32))
    with pytest.raises(ValueError, match=r"must be <= 64 px.*got 80x32"):
        model.sample("a star", size=(80, 32))


def test_an_autoencoder_of_other_channels_than_the_network_s_is_refused():
    network = TowardsTarget(torch.zeros(()))
    network.config = SimpleNamespace(**{**vars(network.config), "latent_channels": 16})
    with pytest.raises(ValueError, match="latents of the same channels, got 16 and 4"):
        pipeline(network)


def test_bf16_is_close_to_fp32_and_is_not_it():
    noise, options = torch.randn(5, 4, 4, 4), SamplingOptions(num_steps=3, guidance_scale=2.0)
    full = pipeline(precision="fp32").solve(PROMPTS, noise, options)
    half = pipeline(precision="bf16").solve(PROMPTS, noise, options)
    assert half.dtype == torch.float32  # the sum over steps is kept in fp32
    assert 0 < (full - half).norm() / full.norm() < 0.05  # bf16 has 8 bits: 0.4 % per rounding


def test_every_picture_says_how_it_was_made():
    model = pipeline(recipe_hash="abc")
    image = model.sample("a star", seed=4, guidance_scale=2.0, without=("t5",))[0]
    assert image.info == {
        "prompt": "a star",
        "negative": "",
        "seed": 4,
        "index": 0,
        "steps": 3,
        "guidance": 2.0,
        "guidance_method": "cfg",
        "guidance_start": 0.0,
        "guidance_end": 1.0,
        "solver": "euler",
        "shift": 1.0,
        "grid": "uniform",
        "without": "t5",
        "recipe_hash": "abc",
    }
    guided = model.sample("a star", **GUIDED, num_steps=4)[0]
    assert guided.info["skip_layers"] == "0"
    assert [guided.info[name] for name in ("skip_scale", "skip_start", "skip_end")] == [
        2.5,
        0.2,
        0.5,
    ]


def test_a_round_trip_is_encode_then_decode():
    pictures = [np.full((16, 16, 3), value, np.uint8) for value in (0, 128, 255)]
    image = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    coder = tiny.autoencoder()
    expected = to_bytes(coder.decode(coder.encode(image)))
    assert worst(pipeline().round_trip(pictures), expected) <= 1


def test_progress_counts_pictures_to_the_total():
    told = []
    pipeline().sample(PROMPTS, batch_size=2, on_progress=lambda *counts: told.append(counts))
    assert told == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"steps": 3}, "known options: num_images_per_prompt, seed, num_steps"),
        ({"solver": "ddim"}, "solver must be one of"),
        ({"shift": 0.0}, "shift must be > 0, got 0"),
        ({"grid": "cubic"}, r"grid must be one of \['karras', 'sd3', 'uniform'\], got 'cubic'"),
        ({"skip_layers": (1, 1)}, r"skip_layers must be distinct and >= 0, got \(1, 1\)"),
        ({"skip_layers": (-1,)}, r"skip_layers must be distinct and >= 0, got \(-1,\)"),
        ({"skip_layers": (0,)}, r"no effect: none of 3 steps lies between 0.01 and 0.2 of them"),
        ({**GUIDED, "skip_scale": 0.0}, "skip_scale must be > 0, got 0"),
        ({**GUIDED, "skip_scale": float("nan")}, "skip_scale must be > 0, got nan"),
        ({**GUIDED, "skip_end": 0.1}, "0 <= start < end <= 1, got 0.2 and 0.1"),
        ({**GUIDED, "skip_end": 1.1}, "0 <= start < end <= 1, got 0.2 and 1.1"),
        ({"skip_scale": 2.0, "skip_end": 0.5}, "skip_end, skip_scale would have no effect without"),
        ({"strength": 0.5}, "strength 0.5 needs an image"),
        ({"strength": 0.0}, r"strength must be in \(0, 1\], got 0.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite"),
        ({"guidance_scale": 1.0, "negative": "rain"}, "negative 'rain' would have no effect"),
        ({"without": ("bert",)}, "got 'bert'"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pipeline().sample("a star", **changes)


def test_no_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one prompt"):
        pipeline().sample([])
    with pytest.raises(ValueError, match="precision must be one of auto, fp32, bf16, got 'fp8'"):
        pipeline(precision="fp8")


def test_other_weights_of_one_recipe_have_another_hash():
    hashes = tiny.pipeline(tiny.network(seed=8)).hashes()
    assert hashes == tiny.pipeline(tiny.network(seed=8)).hashes()
    other = tiny.pipeline(tiny.network(seed=9)).hashes()
    assert [name for name in hashes if hashes[name] != other[name]] == ["network"]
