"""Pictures to start from: how much of them is left, and which part stays."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rectiflow.flow.solvers import SOLVERS
from rectiflow.flow.times import time_grid
from rectiflow.sampling.editing import Original, original_picture
from rectiflow.sampling.images import to_bytes
from rectiflow.sampling.options import SamplingOptions
from tests.sampling import tiny
from tests.sampling.tiny import pipeline

GIVEN = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
LEFT = np.zeros((32, 32), dtype=bool)
LEFT[:, :16] = True  # white: drawn anew
SHIFTED = {"shift": 3.0, "grid": "sd3"}
ON_THE_GRID = [name for name, solver in SOLVERS.items() if not solver.is_adaptive]


class BlockCounter(nn.Module):
    """A velocity that is how many of its 4 blocks are left."""

    config = SimpleNamespace(latent_channels=4, latent_multiple=2, max_latent_side=8, depth=4)

    def forward(self, x, t, cond, skip_blocks=()):
        return torch.full_like(x, 4.0 - len(skip_blocks))


class Watcher(nn.Module):
    """A constant velocity that keeps what it was asked at."""

    config = SimpleNamespace(latent_channels=4, latent_multiple=2, max_latent_side=8)

    def __init__(self, value=0.0):
        super().__init__()
        self.value, self.seen = value, []

    def forward(self, x, t, cond):
        self.seen.append((x.clone(), t.clone()))
        return torch.full_like(x, self.value)


def encoded(picture=GIVEN):
    return tiny.autoencoder().encode(Original(picture).image())


def worst(pictures, others):
    pairs = zip(pictures, others, strict=True)
    return max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs)


@pytest.mark.parametrize("solver", ON_THE_GRID)
def test_full_strength_is_drawing_from_noise(solver):
    model, options = pipeline(), {"num_steps": 4, "solver": solver}
    plain = model.sample("a star", **options)
    assert worst(plain, model.sample("a star", image=GIVEN, strength=1.0, **options)) == 0
    assert worst(plain, model.sample("a star", image=GIVEN, strength=0.7, **options)) > 1


def test_an_adaptive_solver_starts_from_a_picture_but_keeps_no_part_of_it():
    """Of the grid it takes the first time that is left."""
    model, chosen = pipeline(Watcher(value=0.7)), {"solver": "dopri5", "guidance_scale": 1.0}
    options = SamplingOptions(strength=0.5, num_steps=4, **chosen)
    noise = model.noise(5, 0)[None]
    latent = model.solve(["a star"], noise, options, Original(GIVEN))
    torch.testing.assert_close(latent, encoded() / 2 + noise / 2 - 0.5 * 0.7)
    with pytest.raises(ValueError, match="nothing can be done after each step"):
        model.sample("a star", image=GIVEN, mask=LEFT, **chosen)


def test_little_strength_gives_back_the_round_trip():
    model = pipeline()
    drawn = model.sample("a star", image=GIVEN, strength=1e-5, num_steps=100_000)
    assert worst(drawn, model.round_trip([GIVEN])) <= 1


def test_the_picture_is_noised_to_the_first_time_that_is_left():
    """Of 10 steps at strength 0.6 the last 6 are run, from (1 - t) latent + t noise."""
    watcher = Watcher()
    model = pipeline(watcher)
    noise = torch.stack([model.noise(5, i) for i in range(2)])
    options = SamplingOptions(num_steps=10, strength=0.6, guidance_scale=1.0, **SHIFTED)
    latent = model.solve(["a star", "a ring"], noise, options, Original(GIVEN))
    times = time_grid(10, 3.0, "sd3")[4:-1].float()
    assert [t.tolist() for _, t in watcher.seen] == [[t, t] for t in times.tolist()]
    expected = (1 - times[0]) * encoded() + times[0] * noise
    torch.testing.assert_close(watcher.seen[0][0], expected)
    torch.testing.assert_close(latent, expected)  # nothing moves, so this is what is left


def test_skip_layer_guidance_counts_the_steps_that_are_run():
    """Of 10 steps the last 5 are run; 1, 2 and 3 of these lie between 0.01 and 0.4 of 10."""
    model = pipeline(BlockCounter())
    noise = torch.zeros(1, 4, 4, 4)
    options = SamplingOptions(
        num_steps=10, guidance_scale=1.0, strength=0.5, skip_layers=(0, 3), skip_end=0.4
    )
    latent = model.solve(["a star"], noise, options, Original(GIVEN))
    torch.testing.assert_close(latent, 0.5 * encoded() - (5 * 4 + 3 * 2.5 * 2) / 10)


def test_the_default_strength_is_0_6_and_1_with_a_mask():
    model, options = pipeline(), {"num_steps": 5, "image": GIVEN}
    drawn = model.sample("a star", **options)
    assert worst(drawn, model.sample("a star", strength=0.6, **options)) == 0
    masked = model.sample("a star", mask=LEFT, **options)
    assert worst(masked, model.sample("a star", mask=LEFT, strength=1.0, **options)) == 0
    assert (drawn[0].info["strength"], masked[0].info["strength"]) == (0.6, 1.0)


@pytest.mark.parametrize("solver", ON_THE_GRID)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_known_latents_are_kept_bit_for_bit(solver, strength):
    model = pipeline()
    noise = torch.stack([model.noise(5, i) for i in range(2)])
    options = SamplingOptions(num_steps=4, strength=strength, solver=solver, **SHIFTED)
    latent = model.solve(["a star", "a ring"], noise, options, Original(GIVEN, LEFT))
    known = encoded().expand(2, -1, -1, -1)
    assert latent[..., 2:].equal(known[..., 2:])
    assert (latent[..., :2] - known[..., :2]).abs().min() > 0


def test_on_the_way_the_known_part_is_the_original_with_the_noise_of_its_own_picture():
    watcher = Watcher(value=0.7)
    model = pipeline(watcher)
    noise = torch.stack([model.noise(5, i) for i in range(2)])
    options = SamplingOptions(num_steps=4, guidance_scale=1.0)
    latent = model.solve(["a star", "a ring"], noise, options, Original(GIVEN, LEFT))
    assert [t[0].item() for _, t in watcher.seen] == [1.0, 0.75, 0.5, 0.25]
    for x, t in watcher.seen:
        expected = (1 - t[0]) * encoded() + t[0] * noise
        torch.testing.assert_close(x[..., 2:], expected[..., 2:])
    torch.testing.assert_close(latent[..., :2], (noise - 0.7)[..., :2])


def test_a_white_mask_is_no_mask_and_the_masked_picture_is_the_decoded_latent():
    model, options = pipeline(), {"num_steps": 3, "strength": 0.7, "image": GIVEN}
    everywhere = model.sample("a star", mask=np.ones((32, 32), bool), **options)
    assert worst(everywhere, model.sample("a star", **options)) == 0
    masked = model.sample("a star", mask=LEFT, seed=4, **options)
    chosen = SamplingOptions(num_steps=3, strength=0.7, seed=4)
    noise = model.noise(4, 0)[None]
    latent = model.solve(["a star"], noise, chosen, Original(GIVEN, LEFT))
    assert worst(masked, to_bytes(tiny.autoencoder().decode(latent))) <= 1


def test_a_latent_is_drawn_anew_where_any_of_its_pixels_is_white():
    mask = np.zeros((32, 48), bool)
    mask[9, 39] = True  # row 1, column 4 of positions of 8 pixels
    redrawn = Original(np.zeros((32, 48, 3), np.uint8), mask).redrawn_latents(8)
    assert redrawn.shape == (1, 1, 4, 6)
    assert redrawn[0, 0].nonzero().tolist() == [[1, 4]]


def test_pictures_and_arrays_say_the_same():
    grey = np.full((32, 32), 127, np.uint8)
    grey[:, :16] = 128  # the darkest white
    expected = original_picture(GIVEN, LEFT)
    for mask in (grey, Image.fromarray(grey), Image.fromarray(grey).convert("RGB")):
        found = original_picture(Image.fromarray(GIVEN), mask)
        assert np.array_equal(found.redrawn, expected.redrawn)
        assert np.array_equal(found.picture, expected.picture)


def test_a_size_scales_and_cuts_the_centre_of_picture_and_mask_alike():
    """64 x 32, red left, green middle, blue right, to 32 x 32: only the middle is left."""
    picture, mask = np.zeros((32, 64, 3), np.uint8), np.zeros((32, 64), bool)
    picture[:, :16, 0] = picture[:, 16:48, 1] = picture[:, 48:, 2] = 255
    mask[:, :32] = True
    cut = original_picture(picture, mask, (32, 32))
    assert cut.size == (32, 32)
    assert (cut.picture == (0, 255, 0)).all()
    assert cut.redrawn[:, :16].all()
    assert not cut.redrawn[:, 16:].any()
    assert original_picture(picture, None, (64, 32)).picture.tobytes() == picture.tobytes()
    assert original_picture(picture, None, (16, 16)).size == (16, 16)


def test_the_picture_gives_the_size_unless_one_is_asked_for():
    model = pipeline()
    wide = np.concatenate([GIVEN, GIVEN[:, :16]], axis=1)
    assert model.sample("a star", image=wide)[0].size == (48, 32)
    assert model.sample("a star", image=wide, size=(32, 48))[0].size == (32, 48)


@pytest.mark.parametrize("change", ["image", "mask", "strength"])
def test_picture_mask_and_strength_each_matter(change):
    model = pipeline()
    first = {"image": GIVEN, "mask": LEFT, "strength": 0.7, "num_steps": 6}
    others = {"image": 255 - GIVEN, "mask": ~LEFT, "strength": 0.4}
    drawn = model.sample("a star", **first)
    assert worst(drawn, model.sample("a star", **{**first, change: others[change]})) > 1


def test_metadata_pins_the_picture_and_the_mask():
    info = pipeline().sample("a star", image=GIVEN, mask=LEFT, strength=0.5)[0].info
    assert info["image_sha256"] == hashlib.sha256(GIVEN.tobytes()).hexdigest()
    assert info["mask_sha256"] == hashlib.sha256(LEFT.tobytes()).hexdigest()
    assert info["strength"] == 0.5
    assert "image_sha256" not in pipeline().sample("a star")[0].info


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": LEFT}, "a mask needs the image"),
        ({"image": GIVEN, "mask": LEFT[:16]}, "of one size, got 32x32 and 32x16"),
        ({"image": GIVEN, "mask": ~(LEFT | True)}, "black everywhere"),
        ({"image": GIVEN.astype(float)}, r"bytes of shape \(height, width, 3\), got float64"),
        ({"image": GIVEN[..., 0]}, r"got uint8 \(32, 32\)"),
        ({"image": GIVEN, "mask": GIVEN}, r"shape \(height, width\), got uint8 \(32, 32, 3\)"),
        ({"image": GIVEN[:24]}, "multiples of 16 px, got 32x24"),
        ({"image": np.zeros((32, 80, 3), np.uint8)}, "must be <= 64 px.*got 80x32"),
        ({"image": GIVEN, "strength": 1.5}, r"strength must be in \(0, 1\], got 1.5"),
        (
            {"image": GIVEN, "strength": 0.1, "skip_layers": (0,), "num_steps": 10},
            r"no effect: they act from step 1 on, and the strength leaves 1 to run",
        ),
    ],
)
def test_what_cannot_be_started_from_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline().sample("a star", **arguments)
