"""Find trained models by name or path, and load them for drawing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rectiflow.config import nearest
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.errors import DataError
from rectiflow.nn.mmdit import MMDiT, MMDiTConfig
from rectiflow.runs import Run, read_json
from rectiflow.sampling.bundle import MANIFEST, packaged_bundles, packaged_names, verify
from rectiflow.sampling.pipeline import Pipeline, SamplingOptions

DEFAULT_BUNDLE = "scenes-tiny"


@dataclass(frozen=True)
class Source:
    """A trained model on disk.

    Args:
        kind: A sealed bundle, or the folder of a run.
        folder: Where it lies.
    """

    kind: Literal["bundle", "run"]
    folder: Path


def resolve_source(run: Path | None = None, bundle: str | None = None) -> Source:
    """The model that a command line names: at most one of the two, else the default bundle.

    Raises:
        ValueError: If both are given.
        FileNotFoundError: If there is nothing of that name, or it is of the other kind.
    """
    if run is not None and bundle is not None:
        raise ValueError(f"give --run or --bundle, not both (got {run} and {bundle})")
    if run is None:
        source = find_source(bundle or DEFAULT_BUNDLE)
    else:
        source = _source_in(run)
        if source is None:
            raise FileNotFoundError(
                f"no run folder {run}"
                if not run.exists()
                else f"{run} is not a run folder: it has no config.json"
            )
    wanted = "bundle" if run is None else "run"
    if source.kind != wanted:
        raise FileNotFoundError(
            f"{source.folder} is a {source.kind}, not a {wanted}: use --{source.kind}"
        )
    return source


def find_source(name_or_path: str | Path) -> Source:
    """A packaged bundle by name, or a bundle's or run's folder by path.

    Raises:
        FileNotFoundError: If there is neither; the nearest name is suggested.
    """
    names = packaged_names()
    if str(name_or_path) in names:
        return Source("bundle", packaged_bundles() / name_or_path)
    source = _source_in(Path(name_or_path))
    if source is not None:
        return source
    if Path(name_or_path).is_dir():
        raise FileNotFoundError(f"{name_or_path} is neither a bundle nor a run folder")
    hint = nearest(str(name_or_path), names)
    raise FileNotFoundError(f"no bundle or run {str(name_or_path)!r}; {hint}")


def _source_in(folder: Path) -> Source | None:
    if (folder / MANIFEST).is_file():
        return Source("bundle", folder)
    return Source("run", folder) if Run(folder).config_path.is_file() else None


def load(name_or_path: str | Path, *, device: str = "cpu", precision: str = "auto") -> Pipeline:
    """Load a trained model: the averaged weights of a bundle, or of a run's newest checkpoint.

    Args:
        name_or_path: A packaged bundle by name, or the folder of a bundle or a run.
        device: "cpu", "cuda" or "mps".
        precision: "auto", "fp32" or "bf16".

    Raises:
        FileNotFoundError: If there is no such model.
        DataError: If one of its files is damaged.
        ValueError: If the device is not there or the run is not of a flow recipe.
    """
    place = check_device(device)
    source = find_source(name_or_path)
    if source.kind == "bundle":
        return _load_bundle(source.folder, place, precision)
    return _load_run(Run(source.folder), place, precision)


def _load_bundle(folder: Path, device: torch.device, precision: str) -> Pipeline:
    manifest = verify(folder)
    network = network_from(folder / "mmdit" / "config.json", folder / "mmdit" / "model.safetensors")
    encoders = load_encoders({"source": str(folder)})
    recipe = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return _pipeline(network, encoders, recipe, manifest.get("recipe_hash", ""), device, precision)


def _pipeline(
    network: MMDiT,
    encoders: tuple[Autoencoder, TextEncoders],
    recipe: Mapping[str, Any],
    recipe_hash: str,
    device: torch.device,
    precision: str,
) -> Pipeline:
    autoencoder, text = encoders
    settings = recipe.get("sampling", {})
    known = ("num_steps", "solver", "guidance_scale", "shift")
    return Pipeline(
        network,
        autoencoder,
        text,
        side_px=network.config.base_side * network.config.patch_size * autoencoder.factor,
        unconditional_text=settings.get("unconditional", "zeros"),
        device=device,
        precision=precision,
        recipe_hash=recipe_hash,
        options=SamplingOptions(**{name: settings[name] for name in known if name in settings}),
    )


def network_config(
    model: Mapping[str, Any], size_px: int, autoencoder: Autoencoder, text: TextEncoders
) -> MMDiTConfig:
    """The network that a recipe's `model` section means with these encoders.

    Args:
        model: `depth`, `patch_size`, `qk_norm`, `table_factor`.
        size_px: Side of the pictures trained on.
        autoencoder: Gives the latents' channels and scale.
        text: Gives the widths of context and pooled text.
    """
    base_side = size_px // (autoencoder.factor * model["patch_size"])
    return MMDiTConfig(
        depth=model["depth"],
        patch_size=model["patch_size"],
        latent_channels=autoencoder.latent_channels,
        context_width=text.context_width,
        pooled_width=text.pooled_width,
        base_side=base_side,
        table_side=base_side * model["table_factor"],
        qk_norm=model["qk_norm"],
    )


def network_from(config: Path, weights: Path) -> MMDiT:
    """Read a network of a bundle, in float32.

    Raises:
        DataError: If a file is damaged, or weights and configuration do not fit.
    """
    try:
        shape = MMDiTConfig(**read_json(config))
    except TypeError as error:
        raise DataError(f"{config} is not an MM-DiT's configuration: {error}") from error
    return with_weights(shape, read_weights(weights), weights)


def with_weights(config: MMDiTConfig, weights: Mapping[str, Tensor], file: Path) -> MMDiT:
    """A network of this shape with these weights; `file` names them in an error."""
    with torch.device("meta"):  # no time spent on first weights that are replaced at once
        network = MMDiT(config)
    try:
        network.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        raise DataError(f"{file} does not fit the network's configuration: {error}") from error
    return network


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, floating ones as float32."""
    try:
        weights = load_file(file)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def check_device(device: str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        ValueError: If the name is unknown or there is no such device.
    """
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    name = device.partition(":")[0]
    if name not in there:
        raise ValueError(f"device must be cpu, cuda or mps, got {device!r}")
    if not there[name]:
        raise ValueError(f"device {device} is not available on this machine; use cpu")
    return torch.device(device)


def best_device() -> str:
    """The fastest kind of device that this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
