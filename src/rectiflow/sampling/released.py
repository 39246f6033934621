"""Released models made ready to draw: files are found first, then read, encoders last.

A model is an original single file, a diffusers folder, or a name on the hub. Text encoders and
tokenizers are looked for in the folders that the caller names, then inside the single file, then
beside the model (its own folder and `text_encoders/` in it).

Steps, guidance, solver and shift are those of the release's own sampling code; where its code and
its model card differ (the shift of SD3 Medium: 1 and 3), the card's.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rectiflow.devices import resolve_device, resolve_precision
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.released.autoencoder import released_autoencoder
from rectiflow.encoders.released.places import PART_NAMES, Places, TextPart, find_text_parts
from rectiflow.encoders.released.text import T5_TOKENS, ReleasedText
from rectiflow.flow.formulations import formulation
from rectiflow.interop.checkpoint import PART_PREFIXES, Checkpoint, open_checkpoint
from rectiflow.interop.hub import fetch, locate
from rectiflow.interop.pipeline_folder import shift_of
from rectiflow.sampling.drawing import Drawing, drawing_of
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.pipeline import Pipeline

OBJECTIVE = "rf/lognorm(0.00,1.00)"
_REFERENCE = SamplingOptions(solver="dpmpp_2m", grid="sd3", shift=3.0, batch_size=1)
OPTIONS = {
    "sd3-medium": replace(_REFERENCE, num_steps=50, guidance_scale=5.0),
    "sd3.5-medium": replace(
        _REFERENCE, num_steps=50, guidance_scale=5.0, skip_layers=(7, 8, 9), skip_scale=2.5
    ),
    "sd3.5-large": replace(_REFERENCE, num_steps=40, guidance_scale=4.5),
    "sd3.5-large-turbo": replace(_REFERENCE, solver="euler", num_steps=4, guidance_scale=1.0),
}
"""Of each release, as in the reference's sampling code; one picture at a time, for its memory."""

OTHER_OPTIONS = replace(_REFERENCE, solver="euler", num_steps=28, guidance_scale=7.0)
"""Of other models: diffusers' defaults, but the shift is that of the folder's scheduler. A model
that this package trained and exported is drawn as its recipe says."""

_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ReleasedSettings:
    """Where the parts of a released model are, and how its text is joined.

    Args:
        text_encoders: A folder of text encoders: diffusers' subfolders, ComfyUI's files, or copies
            of the public repositories.
        tokenizers: A folder of tokenizers.
        without: Text encoders that are not needed.
        t5_tokens: Length of the T5 part; None is 256, or what the tokenizer holds if that is less.
        missing_t5: What stands for T5 where it is left out, a name in
            `rectiflow.encoders.released.text.MISSING_T5`; None is "zeros", as in diffusers.
        download: Whether the hub may be asked for what is nowhere else.

    Raises:
        ValueError: If a setting has no effect because T5 is, or is not, left out.
    """

    text_encoders: Path | None = None
    tokenizers: Path | None = None
    without: tuple[str, ...] = ()
    t5_tokens: int | None = None
    missing_t5: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        if self.missing_t5 is not None and "t5" not in self.without:
            raise ValueError("missing_t5 has no effect unless t5 is left out: give --without t5")
        is_counted = "t5" not in self.without or self.missing_t5 in (None, "zeros")
        if self.t5_tokens is not None and not is_counted:
            raise ValueError(f"t5_tokens has no effect beside missing_t5 {self.missing_t5!r}")


@dataclass(frozen=True)
class ReleasedModel:
    """A model whose parts are found; nothing but headers and tokenizers is read yet.

    Args:
        checkpoint: The network.
        release: Name in `OPTIONS`, or None.
        parts: The text encoders.
        autoencoder: Where it lies, and a function that reads it.
        settings: What was asked for.
    """

    checkpoint: Checkpoint
    release: str | None
    parts: tuple[TextPart, ...]
    autoencoder: tuple[str, Callable[[], Autoencoder]]
    settings: ReleasedSettings

    @property
    def options(self) -> SamplingOptions:
        """How it is drawn with unless told otherwise."""
        options = _drawing(self.checkpoint, self.release).options
        return replace(options, without=tuple(self.settings.without))

    def facts(self) -> dict[str, Any]:
        """What was found where, and what stands in for what is left out; ready for JSON."""
        text = self._text(torch.float32)
        return {
            "release": self.release,
            "autoencoder": self.autoencoder[0],
            "text_encoders": {part.name: part.origin for part in self.parts},
            "clip_tokens": text.segments[0],
            "t5_tokens": text.segments[1],
        }

    def load(self, device: str = "cpu", precision: str = "auto") -> Pipeline:
        """Read network and autoencoder; the text encoders are read when prompts are there.

        Args:
            device: "cpu", "cuda" or "mps".
            precision: "auto", "fp32" or "bf16"; bf16 also halves the memory of network and T5.
        """
        place = resolve_device(device)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[resolve_precision(precision, place)]
        text = self._text(dtype)  # its mistakes are told before weights are read
        network = self.checkpoint.load_network(dtype)
        autoencoder = self.autoencoder[1]()
        drawing = _drawing(self.checkpoint, self.release)
        return Pipeline(
            network,
            autoencoder,
            text,
            formulation=drawing.formulation,
            side_px=network.config.base_latent_side * autoencoder.factor,
            unconditional_text=drawing.unconditional_text,
            device=place,
            precision=precision,
            recipe_hash=fingerprint(weight_files(self.checkpoint)),
            options=self.options,
            facts=self._picture_facts(),
        )

    def _picture_facts(self) -> dict[str, Any]:
        facts = {
            "release": self.release or "none",
            "t5_tokens": self._text(torch.float32).segments[1],
        }
        is_missing = "t5" in self.settings.without
        return {**facts, "missing_t5": self.settings.missing_t5 or "zeros"} if is_missing else facts

    def _text(self, dtype: torch.dtype) -> ReleasedText:
        held = [p.tokenizer.model_max_length for p in self.parts if p.name == "t5"]
        wanted, config = self.settings.t5_tokens, self.checkpoint.config
        return ReleasedText(
            self.parts,
            context_width=config.context_width,
            pooled_width=config.pooled_width,
            t5_tokens=min([T5_TOKENS, *held]) if wanted is None else wanted,
            missing_t5="zeros" if self.settings.missing_t5 is None else self.settings.missing_t5,
            t5_dtype=dtype,
        )


def find_released(model: str | Path, settings: ReleasedSettings | None = None) -> ReleasedModel:
    """Open a released model and find its parts, or say which are missing.

    Args:
        model: An original single file, a diffusers folder, or OWNER/NAME on the hub.
        settings: Where else to look.

    Raises:
        FileNotFoundError: If the model or a part is nowhere; the message names public sources.
        PermissionError: If the hub wants a licence accepted.
        DataError: If a file is damaged or fits no layout.
    """
    settings = settings or ReleasedSettings()
    checkpoint = open_checkpoint(locate(str(model), download=settings.download))
    if checkpoint.layout == "rectiflow":
        raise ValueError(f"{model} is a run or a bundle of this package: give --run or --bundle")
    folder = checkpoint.folder or checkpoint.path.parent
    inside = [name for name, part in PART_NAMES.items() if _holds(checkpoint, part)]
    places = Places(
        encoders=_with_subfolder(settings.text_encoders),
        inside={name: partial(_part, checkpoint, PART_NAMES[name]) for name in inside},
        beside=_with_subfolder(folder),
        tokenizers=[settings.tokenizers] if settings.tokenizers else [],
        fetch=fetch if settings.download else None,
    )
    return ReleasedModel(
        checkpoint=checkpoint,
        release=checkpoint.release,
        parts=find_text_parts(places, settings.without),
        autoencoder=_find_autoencoder(checkpoint, folder),
        settings=settings,
    )


def load_released(
    model: str | Path,
    settings: ReleasedSettings | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
) -> Pipeline:
    """`find_released`, then read it."""
    return find_released(model, settings).load(device, precision)


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 over size, first and last MiB of each file: tells models apart in a moment.

    The first MiB holds the header. It is an identity for the metadata of pictures, no checksum.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            digest.update(f"{size} ".encode() + opened.read(_SAMPLE_BYTES))
            opened.seek(max(size - _SAMPLE_BYTES, 0))
            digest.update(opened.read())
    return digest.hexdigest()


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The files that the network's weights lie in, sorted."""
    return sorted({checkpoint.network.file_of(name) for name in checkpoint.network})


def _drawing(checkpoint: Checkpoint, release: str | None) -> Drawing:
    """As the release is drawn, else as the recipe of an export of ours says, else as diffusers."""
    recipe = checkpoint.facts.get("recipe")
    if release is None and isinstance(recipe, dict):
        return drawing_of(recipe, checkpoint.path)
    other = OTHER_OPTIONS if release else replace(OTHER_OPTIONS, shift=shift_of(checkpoint))
    options = OPTIONS[release] if release else other
    return Drawing(formulation(OBJECTIVE), options, unconditional_text="empty")


def _with_subfolder(folder: Path | None) -> list[Path]:
    return [] if folder is None else [folder, folder / "text_encoders"]


def _holds(checkpoint: Checkpoint, part: str) -> bool:
    is_single = checkpoint.layout == "stability"
    return is_single and any(name.startswith(PART_PREFIXES[part]) for name in checkpoint.stored)


def _part(checkpoint: Checkpoint, name: str) -> dict[str, torch.Tensor]:
    return checkpoint.part(name) or {}


def _find_autoencoder(
    checkpoint: Checkpoint, folder: Path
) -> tuple[str, Callable[[], Autoencoder]]:
    if _holds(checkpoint, "vae"):
        origin = f"the autoencoder inside {checkpoint.path}"
        return origin, lambda: released_autoencoder(_part(checkpoint, "vae"), origin)
    if (folder / "vae" / "config.json").is_file():
        return str(folder / "vae"), partial(Autoencoder.load, folder / "vae")
    raise FileNotFoundError(
        f"{checkpoint.path} holds no autoencoder and there is no vae/ in {folder}; put the vae "
        "folder of the release's diffusers repository there"
    )
