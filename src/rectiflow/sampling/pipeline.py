"""Prompts in, pictures out: text encoders, network, solver and autoencoder put together."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning, cat
from rectiflow.devices import resolve_precision
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.text import TextEncoders, assemble, unconditional
from rectiflow.flow.formulations import Formulation
from rectiflow.flow.guidance import guided
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import time_grid
from rectiflow.sampling.images import to_bytes
from rectiflow.sampling.options import SamplingOptions

OnProgress = Callable[[int, int], None]  # (pictures done, pictures in all)


class Pipeline:
    """A trained model ready to draw.

    Args:
        network: Called as network(x, t, conditioning); its `config` has `patch_size` and
            `table_side`, tokens along a side of the largest picture.
        autoencoder: Latents to pictures.
        text: Prompts to text states.
        formulation: What the network's output means; turns it into a velocity.
        side_px: Side of the pictures the network was trained on.
        unconditional_text: "zeros" or "empty", as the network was trained.
        device: Where to compute.
        precision: "fp32", "bf16", or "auto": bf16 where the device is faster at it.
        recipe_hash: SHA-256 of the run's `config.json`; written into every picture's metadata.
        options: Defaults of `sample`.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text: TextEncoders,
        *,
        formulation: Formulation,
        side_px: int,
        unconditional_text: str = "zeros",
        device: str | torch.device = "cpu",
        precision: str = "auto",
        recipe_hash: str = "",
        options: SamplingOptions | None = None,
    ) -> None:
        config: Any = network.config
        self.patch_size: int = config.patch_size
        self.max_side_px: int = config.table_side * config.patch_size * autoencoder.factor
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.autoencoder = autoencoder.to(self.device).eval()
        self.text = text.to(self.device).eval()
        self.formulation = formulation
        self.side_px = side_px
        self.unconditional_text = unconditional_text
        self.precision = resolve_precision(precision, self.device)
        self.recipe_hash = recipe_hash
        self.options = options or SamplingOptions()

    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        on_progress: OnProgress | None = None,
        **changes: Any,
    ) -> list[Image.Image]:
        """Draw pictures; those of the first prompt come first.

        Args:
            prompts: One prompt or several.
            on_progress: Called after every batch.
            **changes: Fields of `SamplingOptions` that differ from `self.options`.

        Returns:
            RGB pictures whose `info` tells prompt, seed, index and settings.

        Raises:
            ValueError: If there is no prompt, or an option is unknown or out of range.
        """
        options = self.with_options(changes)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise ValueError("sample needs at least one prompt, got none")
        each = [text for text in texts for _ in range(options.num_images_per_prompt)]
        keys = [(options.seed, i) for i in range(len(each))]
        pictures = self.draw(each, keys, options, on_progress)
        return [
            self._with_facts(picture, prompt, i, options)
            for i, (picture, prompt) in enumerate(zip(pictures, each, strict=True))
        ]

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        keys: Sequence[tuple[int, int]],
        options: SamplingOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[UInt8[np.ndarray, "height width 3"]]:
        """Draw one picture per prompt, picture i from the noise of keys[i] = (seed, index)."""
        options = options or self.options
        pictures: list[np.ndarray] = []
        for start in range(0, len(prompts), options.batch_size):
            chosen = slice(start, start + options.batch_size)
            noise = torch.stack([self.noise(*key, options.size) for key in keys[chosen]])
            latent = self.solve(prompts[chosen], noise, options)
            pictures.extend(to_bytes(self.autoencoder.decode(latent)))
            if on_progress is not None:
                on_progress(len(pictures), len(prompts))
        return pictures

    @torch.no_grad()
    def round_trip(self, pictures: Sequence[np.ndarray]) -> list[UInt8[np.ndarray, "h w 3"]]:
        """Pictures of one size through the autoencoder and back: the best that can be drawn."""
        decoded: list[np.ndarray] = []
        for start in range(0, len(pictures), self.options.batch_size):
            batch = np.stack(pictures[start : start + self.options.batch_size])
            image = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1
            decoded.extend(to_bytes(self.autoencoder.decode(self.autoencoder.encode(image))))
        return decoded

    def with_options(self, changes: Mapping[str, Any]) -> SamplingOptions:
        """The model's own options with some changed.

        Raises:
            ValueError: If an option is unknown or out of range.
        """
        try:
            return replace(self.options, **changes)
        except TypeError as error:
            known = ", ".join(SamplingOptions.__dataclass_fields__)
            raise ValueError(f"{error}; known options: {known}") from error

    def noise(
        self, seed: int, index: int, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "channels rows columns"]:
        """The noise of picture `index`: drawn on CPU, so it is the same on every device.

        Raises:
            ValueError: If the size does not fit the autoencoder and the network's patches, or
                exceeds the network's table of positions.
        """
        width, height = size or (self.side_px, self.side_px)
        unit = self.autoencoder.factor * self.patch_size
        if width < unit or height < unit or width % unit or height % unit:
            raise ValueError(
                f"width and height must be multiples of {unit} px, got {width}x{height}"
            )
        if max(width, height) > self.max_side_px:
            raise ValueError(
                f"width and height must be <= {self.max_side_px} px, the network's table of "
                f"positions, got {width}x{height}"
            )
        rows, columns = height // self.autoencoder.factor, width // self.autoencoder.factor
        shape = (self.autoencoder.latent_channels, rows, columns)
        return torch.randn(shape, generator=picture_generator(seed, index))

    @torch.no_grad()
    def solve(
        self,
        prompts: Sequence[str],
        noise: Float[Tensor, "batch channels rows columns"],
        options: SamplingOptions,
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Carry noise to latents, one prompt for each."""
        noise = noise.to(self.device)
        cond, uncond = self._conditioning(prompts, options)
        grid = time_grid(options.num_steps, options.shift)
        with self._autocast():
            velocity = guided(self._velocity, cond, cat(cond, uncond), options.guidance_scale)
            return integrate(velocity, noise, grid, SOLVERS[options.solver])

    def _velocity(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        output = self.network(x, t, cond).float()  # the solver's sum stays in fp32
        return self.formulation.velocity(output, x, t)

    def _conditioning(
        self, prompts: Sequence[str], options: SamplingOptions
    ) -> tuple[Conditioning, Conditioning]:
        """Text of every prompt, each distinct one encoded once, and the text to steer from."""
        distinct = sorted(set(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        known = assemble(self.text.encode(distinct), without=options.without)
        if options.negative:
            away = assemble(self.text.encode([options.negative]), without=options.without)
        else:
            away = unconditional(self.unconditional_text, self.text, without=options.without)
        return known.select(rows), away.select([0] * len(prompts))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _with_facts(
        self, picture: np.ndarray, prompt: str, index: int, options: SamplingOptions
    ) -> Image.Image:
        image = Image.fromarray(picture)
        image.info = {
            "prompt": prompt,
            "negative": options.negative,
            "seed": options.seed,
            "index": index,
            "steps": options.num_steps,
            "guidance": options.guidance_scale,
            "solver": options.solver,
            "shift": options.shift,
            "without": " ".join(options.without),
            "recipe_hash": self.recipe_hash,
        }
        return image


def picture_generator(seed: int, index: int) -> torch.Generator:
    """The generator of picture `index`, on CPU.

    torch's CPU generator uses only the low 32 bits of its seed, so (seed, index) is hashed to
    exactly these.
    """
    digest = hashlib.blake2b(f"picture {seed} {index}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
