"""Pictures of scenes, and what a sampler or an autoencoder may do to them."""

import numpy as np
from scipy import ndimage

from rectiflow.data.scenes import Scene, Thing, render
from rectiflow.evaluation.scenes_prompts import ground_truth, load_prompts


def some_prompts(step: int, offset: int = 0, **keys: str) -> list[dict]:
    """Every `step`-th committed prompt whose keys have the given values."""
    chosen = [p for p in load_prompts() if all(p[k] == v for k, v in keys.items())]
    return chosen[offset::step]


def picture_of(prompt: dict, size_px: int = 64) -> np.ndarray:
    return render(ground_truth(prompt), size_px)


def scene_of(*things: Thing) -> Scene:
    return Scene(0, 0, "pair", things)


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; sigma in parts of the side."""
    sigma_px = sigma * image.shape[0]
    return to_bytes(ndimage.gaussian_filter(image.astype(np.float32), (sigma_px, sigma_px, 0)))


def noisy(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """White noise; sigma in bytes."""
    return to_bytes(image + np.random.default_rng(seed).normal(0, sigma, image.shape))


def ringing(image: np.ndarray) -> np.ndarray:
    """Overshoot at edges of about a quarter of the step, as sharpening decoders leave it."""
    soft = blurred(image, 0.02).astype(np.float32)
    return to_bytes(image + 0.6 * (image - soft))


def decoded(image: np.ndarray, seed: int = 0) -> np.ndarray:
    """What an autoencoder does: some blur, some noise, a little more contrast."""
    soft = blurred(image, 0.012).astype(np.float32)
    return noisy(128 + 1.03 * (soft - 128), 6, seed)
