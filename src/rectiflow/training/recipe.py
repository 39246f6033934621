"""Recipes: the root configurations, packaged ones by name and others by path."""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from rectiflow import config
from rectiflow.config import STRICT, by_kind
from rectiflow.encoders.settings import AUTOENCODER_FACTOR, AutoencoderModel, EncodersModel
from rectiflow.nn.settings import AnyNetworkSettings, MMDiTSettings
from rectiflow.training.settings.data import AnyData, EncodersSettings, PictureData
from rectiflow.training.settings.objectives import AutoencoderLoss, EncodersLoss, FlowSettings
from rectiflow.training.settings.parallel import ParallelSettings
from rectiflow.training.settings.sampling import SamplingSettings
from rectiflow.training.settings.speed import SpeedSettings
from rectiflow.training.settings.training import TrainingSettings

Data = Annotated[AnyData, by_kind]
Pictures = Annotated[PictureData, by_kind]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowRecipe:
    """A network on the latents and texts of frozen encoders.

    Args:
        name: Name of the recipe, by default that of its file.
        seed: Seed of everything that is drawn in the run, and of the first weights.
        data: What it learns from.
        encoders: What makes latents and text states.
        model: The network; an MM-DiT unless `kind` names another.
        objective: The loss.
        training: The loop.
        sampling: How pictures are drawn from it.
        parallel: How the run is spread over processes.
    """

    __pydantic_config__ = STRICT

    name: str
    kind: Literal["flow"] = "flow"
    seed: int = 0
    data: Data
    encoders: EncodersSettings = field(default_factory=EncodersSettings)
    model: AnyNetworkSettings = field(default_factory=MMDiTSettings)
    objective: FlowSettings = field(default_factory=FlowSettings)
    training: TrainingSettings
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)

    def __post_init__(self) -> None:
        _check_identity(self.name, self.seed)
        unit = AUTOENCODER_FACTOR * self.model.latent_multiple
        if self.data.size_px % unit:
            raise ValueError(
                f"data.size_px must be a multiple of {unit}, {AUTOENCODER_FACTOR} for the "
                f"autoencoder times {self.model.latent_multiple} for the model, "
                f"got {self.data.size_px}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderRecipe:
    """An autoencoder on pictures; see `FlowRecipe` for the sections."""

    __pydantic_config__ = STRICT

    name: str
    kind: Literal["autoencoder"] = "autoencoder"
    seed: int = 0
    data: Pictures
    model: AutoencoderModel = field(default_factory=AutoencoderModel)
    objective: AutoencoderLoss = field(default_factory=AutoencoderLoss)
    training: TrainingSettings
    parallel: ParallelSettings = field(default_factory=ParallelSettings)

    def __post_init__(self) -> None:
        _check_identity(self.name, self.seed)
        _check_no_network(self.training, self.data)
        _check_whole(self.parallel)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodersRecipe:
    """Text encoders, on pictures and captions; see `FlowRecipe` for the sections."""

    __pydantic_config__ = STRICT

    name: str
    kind: Literal["encoders"] = "encoders"
    seed: int = 0
    data: Pictures
    model: EncodersModel = field(default_factory=EncodersModel)
    objective: EncodersLoss = field(default_factory=EncodersLoss)
    training: TrainingSettings
    parallel: ParallelSettings = field(default_factory=ParallelSettings)

    def __post_init__(self) -> None:
        _check_identity(self.name, self.seed)
        _check_no_network(self.training, self.data)
        _check_whole(self.parallel)


Recipe = FlowRecipe | AutoencoderRecipe | EncodersRecipe
AnyRecipe: Any = Annotated[Recipe, by_kind]


def packaged_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = importlib.resources.files("rectiflow") / "recipes"
    if not folder.is_dir():
        return []
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name[-5:] == ".toml")


def load_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """A packaged recipe by name, or a TOML file by path, with `--set` assignments applied.

    A file without `name` is named after itself.

    Raises:
        ValueError: If there is no such recipe (the nearest is suggested) or a setting is wrong.
    """
    text, name = _read(name_or_path)
    values = {"name": name} | config.read_toml(text, name_or_path)
    return config.from_dict(AnyRecipe, config.override(AnyRecipe, values, assignments))


def recipe_from_dict(values: Any) -> Recipe:
    """The recipe of a `config.json`."""
    return config.from_dict(AnyRecipe, values)


def _read(name_or_path: str) -> tuple[str, str]:
    """Text of a recipe, and the name it has unless it says otherwise."""
    names = packaged_recipes()
    if name_or_path in names:
        file = importlib.resources.files("rectiflow") / "recipes" / f"{name_or_path}.toml"
        return file.read_text(encoding="utf-8"), name_or_path
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path.stem
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text file: {error}") from None
    if path.suffix == ".toml" or "/" in name_or_path:
        raise ValueError(f"no recipe file {name_or_path}")
    raise ValueError(f"unknown recipe {name_or_path!r}; {config.nearest(name_or_path, names)}")


def _check_identity(name: str, seed: int) -> None:
    # The name becomes a folder.
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name[0] == ".":
        raise ValueError(f"name must be letters, digits, '-', '_' and '.', got {name!r}")
    # First weights come from torch's generator, which uses 32 bits of its seed.
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, {2**32 - 1}], got {seed}")


def _check_whole(parallel: ParallelSettings) -> None:
    if parallel.kind in ("fsdp", "hsdp"):
        raise ValueError(
            "parallel.kind: fsdp and hsdp split the network of a flow; it must be auto, single or "
            f"ddp here, got {parallel.kind}"
        )


def _check_no_network(training: TrainingSettings, data: PictureData) -> None:
    if training.attention_blocks:
        raise ValueError(
            "training.attention_blocks watches the network of a flow; it must be 0 here, "
            f"got {training.attention_blocks}"
        )
    if training.speed != SpeedSettings():
        raise ValueError(
            "training.speed makes the blocks of a flow's network faster; it must be left as it is "
            f"here, got {training.speed}"
        )
    if data.latent != "mean":
        raise ValueError(
            "data.latent says which latents a flow is trained on; it must be 'mean' here, where "
            f"pictures are, got {data.latent!r}"
        )
