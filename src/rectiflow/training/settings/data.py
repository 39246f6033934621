"""The sections `data`, what a recipe learns from, and `encoders`. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal

from rectiflow.config import FREE, STRICT
from rectiflow.training.settings.bounds import at_least, within

Latent = Literal["mean", "sample"]
"""What a flow is trained on: the mean of each picture's latents, or a draw from them each time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenesData:
    """The built-in procedural data set.

    Args:
        size_px: Side of the pictures.
        num_scenes: Scenes trained on.
        num_validation: Scenes of another seed, held out for the validation loss.
        synthetic_fraction: Share of samples that see the complete caption, the rest the short one.
        seed: Seed of the scenes; not of the run.
        latent: `mean` or `sample` of the autoencoder's posterior; validation reads the mean.
    """

    __pydantic_config__ = STRICT

    kind: Literal["scenes"] = "scenes"
    size_px: int = 64
    num_scenes: int = 20_000
    num_validation: int = 64
    synthetic_fraction: float = 0.5
    seed: int = 0
    latent: Latent = "mean"

    def __post_init__(self) -> None:
        _check_data(self)
        at_least("num_scenes", self.num_scenes, 1)
        within("synthetic_fraction", self.synthetic_fraction, 0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderData:
    """An own folder of pictures with captions.

    Args:
        path: Folder with images and `.txt` sidecars, or `metadata.jsonl` / `.csv`.
        size_px: Side that pictures are scaled and cropped to.
        num_validation: Pictures held out for the validation loss, at most a tenth of all.
        latent: `mean` or `sample` of the autoencoder's posterior; validation reads the mean.
    """

    __pydantic_config__ = STRICT

    kind: Literal["folder"] = "folder"
    path: str
    size_px: int = 64
    num_validation: int = 16
    latent: Latent = "mean"

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError(
                "path must name a folder of pictures, got nothing; --set data.path=/my/pictures"
            )
        _check_data(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreData:
    """A store that `rectiflow data encode` made.

    Args:
        store: Its folder, or its fsspec URL such as `s3://bucket/store`.
        validation: A store of held-out records; None holds out rows of `store`, chosen by a hash
            of their ids, all of which are read for it.
        size_px: Side of the pictures, as they were encoded.
        num_validation: Records held out for the validation loss, at most a tenth of all unless
            they have a store of their own.
        synthetic_fraction: Share of samples that see the synthetic caption, where the records have
            one beside the original.
        latent: `mean` or `sample` of the autoencoder's posterior; validation reads the mean.
        cache_dir: Where files behind a URL are kept; None for `~/.cache/rectiflow/shards`.
        cache_bytes: Most bytes kept there.
    """

    __pydantic_config__ = STRICT

    kind: Literal["store"] = "store"
    store: str
    validation: str | None = None
    size_px: int = 64
    num_validation: int = 64
    synthetic_fraction: float = 0.5
    latent: Latent = "mean"
    cache_dir: str | None = field(default=None, metadata=FREE)
    cache_bytes: int = field(default=64_000_000_000, metadata=FREE)

    def __post_init__(self) -> None:
        if not self.store or self.validation == "":
            raise ValueError(
                "store and validation must name encoded stores, got nothing; "
                "--set data.store=/my/store"
            )
        _check_data(self)
        within("synthetic_fraction", self.synthetic_fraction, 0, 1)
        at_least("cache_bytes", self.cache_bytes, 1)


AnyData = ScenesData | FolderData | StoreData
PictureData = ScenesData | FolderData
"""Data with pictures, which encoders are trained on; a store has latents and states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersSettings:
    """Which trained encoders make latents and text states.

    Args:
        source: Bundle by name, a run, or a folder with the parts of a diffusers SD3 pipeline.
        autoencoder: Overrides the autoencoder of `source`; a run or folder.
        text: Overrides the text encoders of `source`; a run or folder.
    """

    __pydantic_config__ = STRICT

    source: str = "scenes-tiny"
    autoencoder: str | None = None
    text: str | None = None


def _check_data(data: AnyData) -> None:
    at_least("num_validation", data.num_validation, 1)
    if data.size_px < 8 or data.size_px % 8:
        raise ValueError(f"size_px must be a positive multiple of 8, got {data.size_px}")
