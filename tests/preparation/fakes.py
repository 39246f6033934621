"""Encoders and records whose results are known in closed form."""

import hashlib
import math
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch

from rectiflow.data.records import BadRecord, Loaded, Record
from rectiflow.preparation.encode import STATES, Encoders

SHAPES = {"clip_l": (5, 8), "clip_g": (5, 12), "t5": (6, 24), "pooled_l": (8,), "pooled_g": (12,)}


def text_state(caption: str, name: str) -> np.ndarray:
    """Standard normals keyed by caption and name, float32."""
    seed = int.from_bytes(hashlib.sha256(f"{caption}|{name}".encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(SHAPES[name], dtype=np.float32)


@dataclass
class FakeAutoencoder:
    """The latent is the mean over 8 x 8 pixels, channel by channel, shifted and scaled; the raw log
    variance is 3 less than that mean."""

    name: str = "ae"
    factor: int = 8
    latent_channels: int = 3
    shift: float = 0.25
    scale: float = 2.0
    num_pictures: int = 0

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self.posterior(image).mean

    def posterior(self, image: torch.Tensor) -> SimpleNamespace:
        self.num_pictures += len(image)
        means = torch.nn.functional.avg_pool2d(image, 8)
        # A picture with one pure green pixel in its corner makes the encoder overflow.
        poison = (image[:, :, 0, 0] == torch.tensor([-1.0, 1.0, -1.0])).all(dim=1)
        means[poison] = torch.nan
        log_variance = means - 3 + 2 * math.log(self.scale)
        return SimpleNamespace(mean=(means - self.shift) * self.scale, log_variance=log_variance)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        means = latent / self.scale + self.shift
        return means.repeat_interleave(8, -1).repeat_interleave(8, -2)

    def identity(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()


class Cut(UserWarning):
    """As the text encoders warn of prompts that they cut."""

    def __init__(self, num_prompts: int) -> None:
        super().__init__("prompt too long")
        self.num_prompts = num_prompts


@dataclass
class FakeTexts:
    """States are normals keyed by the caption; remembers what it was asked."""

    name: str = "text"
    calls: list[list[str]] = field(default_factory=list)

    def encode(self, prompts: list[str]) -> SimpleNamespace:
        self.calls.append(prompts)
        num_long = sum("very" in prompt for prompt in prompts)
        if num_long:
            warnings.warn(Cut(num_long), stacklevel=2)
        scale = [1e9 if "overflow" in prompt else 1.0 for prompt in prompts]
        return SimpleNamespace(
            **{
                name: torch.stack(
                    [
                        torch.from_numpy(text_state(p, name)) * s
                        for p, s in zip(prompts, scale, strict=True)
                    ]
                )
                for name in STATES
            }
        )

    def identity(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()


def fake_encoders(autoencoder: str = "ae", text: str = "text") -> Encoders:
    return Encoders(FakeAutoencoder(autoencoder), FakeTexts(text))


def pixels(index: int, size_px: int = 16) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)


class FakeRecords:
    """`num` random pictures with two captions each, of which many repeat; some may be bad."""

    caption_names = ("alt", "synthetic")
    quarantined = ()

    def __init__(self, num: int, *, bad: frozenset[int] = frozenset(), name: str = "fake") -> None:
        self.num, self.bad, self.name = num, bad, name
        self.size_px = 16
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.num

    def record(self, index: int) -> Record:
        captions = {"alt": f"thing {index % 5}", "synthetic": f"exactly thing {index % 7}"}
        return Record(f"{self.name}-{index}", captions, lambda: self._load(index))

    def _load(self, index: int) -> Loaded:
        self.loaded.append(index)
        if index in self.bad:
            raise BadRecord(f"{self.name}-{index}", "damaged picture", "on purpose")
        return Loaded(pixels(index), is_enlarged=index % 10 == 0)

    def description(self) -> dict:
        return {"kind": "fake", "name": self.name, "num": self.num, "bad": sorted(self.bad)}
