"""Prompts in, pictures out: text encoders, network, solver and autoencoder put together."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from rectiflow.conditioning import Conditioning, zeros_like
from rectiflow.devices import resolve_precision
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.folders import content_hash
from rectiflow.encoders.released.text import ReleasedText
from rectiflow.encoders.text import TextEncoders
from rectiflow.flow.formulations import Formulation
from rectiflow.flow.steps import own_noise
from rectiflow.sampling.editing import Original, Picture, original_picture
from rectiflow.sampling.guiding import Guide, check_guide, check_skipping
from rectiflow.sampling.images import to_bytes
from rectiflow.sampling.options import SamplingOptions, with_changes
from rectiflow.sampling.solving import Start, carry

OnProgress = Callable[[int, int], None]  # (pictures done, pictures in all)


@dataclass(frozen=True)
class _Text:
    """Text of all pictures of a call.

    Args:
        known: Of every distinct prompt.
        rows: Which of them each picture shows.
        away: What to steer away from, a batch of one.
    """

    known: Conditioning
    rows: Tensor
    away: Conditioning

    def batch(self, chosen: slice, device: torch.device) -> tuple[Conditioning, Conditioning]:
        """Text of some pictures and what each steers away from."""
        rows = self.rows[chosen]
        away = self.away.select([0] * len(rows))
        return self.known.select(rows).to(device), away.to(device)


class Pipeline:
    """A trained model ready to draw.

    Args:
        network: Called as network(x, t, conditioning); its `config` has `latent_channels`,
            `latent_multiple`, which divides the sides of a latent, and `max_latent_side`, their
            bound or None.
        autoencoder: Latents to pictures.
        text: Prompts to conditioning.
        formulation: What the network's output means; turns it into a velocity.
        side_px: Side of the pictures the network was trained on.
        unconditional_text: What guidance steers away from unless a negative is given: "zeros",
            what training shows when all encoders are dropped, or "empty", the encoding of "", what
            the released models are sampled with.
        device: Where to compute.
        precision: "fp32", "bf16", or "auto": bf16 where the device is faster at it.
        recipe_hash: SHA-256 of the run's `config.json`; written into every picture's metadata.
        options: Defaults of `sample`.
        facts: What else every picture's metadata tells of the model.
        guide: A weaker model; guidance then leads away from it, not from the network without text.

    Raises:
        ValueError: If network and autoencoder have latents of different channels, or a setting is
            unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        autoencoder: Autoencoder,
        text: TextEncoders | ReleasedText,
        *,
        formulation: Formulation,
        side_px: int,
        unconditional_text: str = "zeros",
        device: str | torch.device = "cpu",
        precision: str = "auto",
        recipe_hash: str = "",
        options: SamplingOptions | None = None,
        facts: Mapping[str, object] | None = None,
        guide: Guide | None = None,
    ) -> None:
        config: Any = network.config
        if config.latent_channels != autoencoder.latent_channels:
            raise ValueError(
                f"network and autoencoder must have latents of the same channels, got "
                f"{config.latent_channels} and {autoencoder.latent_channels}"
            )
        self.unit_px: int = config.latent_multiple * autoencoder.factor
        bound: int | None = config.max_latent_side
        self.max_side_px = None if bound is None else bound * autoencoder.factor
        self.device = torch.device(device)
        # Encoders that come and go do so before the network takes its room on the device.
        self.network = (network if text.is_transient else network.to(self.device)).eval()
        self.autoencoder = autoencoder.to(self.device).eval()
        self.text: Any = text.to(self.device).eval()
        self.formulation = formulation
        self.side_px = side_px
        if unconditional_text not in ("zeros", "empty"):
            raise ValueError(f"unconditional must be zeros or empty, got {unconditional_text!r}")
        self.unconditional_text = unconditional_text
        self.precision = resolve_precision(precision, self.device)
        self.recipe_hash = recipe_hash
        self.options = options or SamplingOptions()
        self.facts = dict(facts or {})
        self.guide = guide

    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        image: Picture | None = None,
        mask: Picture | None = None,
        on_progress: OnProgress | None = None,
        **changes: Any,
    ) -> list[Image.Image]:
        """Draw pictures; those of the first prompt come first.

        Args:
            prompts: One prompt or several.
            image: A picture to start from instead of noise alone; `strength` says how much of it
                is left, and `size` scales and cuts it (see `rectiflow.sampling.editing`).
            mask: White where `image` is drawn anew, black where it stays.
            on_progress: Called after every batch.
            **changes: Fields of `SamplingOptions` that differ from `self.options`.

        Returns:
            RGB pictures whose `info` tells prompt, seed, index and settings.

        Raises:
            ValueError: If there is no prompt, an option is unknown, out of range or without effect,
                or the picture to start from does not fit.
        """
        options = self.with_options(changes)
        original = original_picture(image, mask, options.size)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts:
            raise ValueError("sample needs at least one prompt, got none")
        each = [text for text in texts for _ in range(options.num_images_per_prompt)]
        keys = [(options.seed, i) for i in range(len(each))]
        pictures = self.draw(each, keys, options, on_progress, original)
        return [
            self._with_facts(picture, prompt, i, options, original)
            for i, (picture, prompt) in enumerate(zip(pictures, each, strict=True))
        ]

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        keys: Sequence[tuple[int, int]],
        options: SamplingOptions | None = None,
        on_progress: OnProgress | None = None,
        original: Original | None = None,
    ) -> list[UInt8[np.ndarray, "height width 3"]]:
        """Draw one picture per prompt, picture i from the noise of keys[i] = (seed, index).

        All start from `original` where it is given; its size is theirs.
        """
        options = options or self.options
        size = options.size if original is None else original.size
        self._latent_shape(size)  # mistakes are told before anything is computed
        check_skipping(self.network, options.skip_layers)
        check_guide(self.guide, self.network, self.formulation, options)
        begin = self._start(original, options)
        text = self._text(prompts, options)
        pictures: list[np.ndarray] = []
        for start in range(0, len(prompts), options.num_drawn_at_once):
            chosen = slice(start, start + options.num_drawn_at_once)
            noise = torch.stack([self.noise(*key, size) for key in keys[chosen]])
            texts = text.batch(chosen, self.device)
            latent = self._carry(noise, texts, options, begin, keys[chosen])
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

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each part that draws; a run's recipe is one at every step, these are not."""
        return {
            "network": content_hash({}, self.network.state_dict()),
            "autoencoder": self.autoencoder.identity(),
            "text": self.text.identity(),
        }

    def with_options(self, changes: Mapping[str, Any]) -> SamplingOptions:
        """The model's own options with some changed.

        Raises:
            ValueError: If an option is unknown, out of range or without effect.
        """
        return with_changes(self.options, changes)

    def noise(
        self, seed: int, index: int, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "channels rows columns"]:
        """The noise of picture `index`: drawn on CPU, so it is the same on every device.

        Raises:
            ValueError: If the size does not fit the autoencoder and the network's patches, or
                exceeds what the network takes.
        """
        return torch.randn(self._latent_shape(size), generator=picture_generator(seed, index))

    @torch.no_grad()
    def solve(
        self,
        prompts: Sequence[str],
        noise: Float[Tensor, "batch channels rows columns"],
        options: SamplingOptions,
        original: Original | None = None,
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Carry noise to latents, one prompt for each, all at once.

        What a stochastic solver draws on its way for sample i is that of (options.seed, i).
        """
        check_guide(self.guide, self.network, self.formulation, options)
        text = self._text(prompts, options).batch(slice(None), self.device)
        keys = [(options.seed, i) for i in range(len(prompts))]
        return self._carry(noise, text, options, self._start(original, options), keys)

    def _carry(
        self,
        noise: Tensor,
        text: tuple[Conditioning, Conditioning],
        options: SamplingOptions,
        start: Start | None,
        keys: Sequence[tuple[int, int]],
    ) -> Tensor:
        draw = own_noise([picture_generator(*key, "steps") for key in keys])
        if self.guide is not None:
            self.guide.network.to(self.device).eval()
        parts = {"start": start, "guide": self.guide, "draw": draw}
        with self._autocast():
            noise = noise.to(self.device)
            return carry(self.network, self.formulation, noise, *text, options, **parts)

    def _start(self, original: Original | None, options: SamplingOptions) -> Start | None:
        """The latent of the picture to start from, encoded once for all pictures."""
        if original is None:
            if options.strength is not None:
                raise ValueError(f"strength {options.strength} needs an image to start from")
            return None
        latent = self.autoencoder.encode(original.image().to(self.device))
        redrawn = original.redrawn_latents(self.autoencoder.factor)
        return Start(latent, redrawn, original.strength(options.strength))

    def _latent_shape(self, size: tuple[int, int] | None) -> tuple[int, int, int]:
        """Channels, rows and columns of the latent of a picture (width, height)."""
        width, height = size or (self.side_px, self.side_px)
        unit = self.unit_px
        if width < unit or height < unit or width % unit or height % unit:
            raise ValueError(
                f"width and height must be multiples of {unit} px, got {width}x{height}"
            )
        if self.max_side_px is not None and max(width, height) > self.max_side_px:
            raise ValueError(
                f"width and height must be <= {self.max_side_px} px, the largest that the network "
                f"takes, got {width}x{height}"
            )
        factor = self.autoencoder.factor
        return self.autoencoder.latent_channels, height // factor, width // factor

    def _text(self, prompts: Sequence[str], options: SamplingOptions) -> _Text:
        """Text of every prompt, each distinct one encoded once, and the text to steer from."""
        if self.text.is_transient:  # there may be no room for encoders and network at once
            self.network.to("cpu")
        distinct = sorted(set(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        is_encoded = options.negative or self.unconditional_text == "empty"
        encoded = [*distinct, options.negative] if is_encoded else distinct
        cond = self.text.conditioning(encoded, without=options.without)
        away = cond.select([len(encoded) - 1])
        self.network.to(self.device)
        return _Text(cond, torch.tensor(rows), away if is_encoded else zeros_like(away))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _with_facts(
        self,
        picture: np.ndarray,
        prompt: str,
        index: int,
        options: SamplingOptions,
        original: Original | None,
    ) -> Image.Image:
        image = Image.fromarray(picture)
        image.info = {
            "prompt": prompt,
            "index": index,
            "recipe_hash": self.recipe_hash,
            **self.facts,
            **options.facts(),
            "grid": options.grid or self.formulation.grid,
            **({"guide_sha256": self.guide.sha256} if self.guide else {}),
        }
        if original is not None:
            image.info.update(original.facts(), strength=original.strength(options.strength))
        return image


def picture_generator(seed: int, index: int, purpose: str = "") -> torch.Generator:
    """The generator of picture `index`, on CPU: of its first noise, or for another purpose.

    torch's CPU generator uses only the low 32 bits of its seed, so (seed, index) is hashed to
    exactly these.
    """
    name = f"picture {seed} {index} {purpose}".rstrip()
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
