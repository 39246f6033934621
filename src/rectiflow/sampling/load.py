"""Load trained models for drawing: bundles, and runs at their newest checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rectiflow.checkpoints import load_group, newest_intact
from rectiflow.config import from_dict
from rectiflow.devices import resolve_device
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.text import TextEncoders
from rectiflow.errors import DataError
from rectiflow.nn import backbones
from rectiflow.nn.backbones import BACKBONES, Interface, backbone_of
from rectiflow.nn.settings import AnyNetworkSettings
from rectiflow.runs import Run, read_json
from rectiflow.sampling.drawing import drawing_of
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.sources import encoder_folders, find_source
from rectiflow.sealing import sha256, verify


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
    place = resolve_device(device)
    source = find_source(name_or_path)
    if source.kind == "bundle":
        return _load_bundle(source.folder, place, precision)
    return _load_run(Run(source.folder), place, precision)


def _load_bundle(folder: Path, device: torch.device, precision: str) -> Pipeline:
    if "config.json" not in verify(folder)["files"]:
        raise DataError(f"{folder} has no config.json, which says how its network is read")
    network = network_from(folder)
    encoders = Autoencoder.load(folder / "vae"), TextEncoders.load(folder)
    return _pipeline(network, encoders, folder / "config.json", device, precision)


def _load_run(run: Run, device: torch.device, precision: str) -> Pipeline:
    _refuse_no_flow(run)
    folder = newest_checkpoint(run)
    return pipeline_with(run, averaged_weights(folder), folder, device, precision)


def _refuse_no_flow(run: Run) -> None:
    if (kind := run.config().get("kind")) != "flow":
        raise ValueError(f"{run.folder} trains {kind}; only a flow run can draw")


def pipeline_with(
    run: Run,
    weights: Mapping[str, Tensor],
    origin: Path,
    device: torch.device,
    precision: str,
) -> Pipeline:
    """A flow run's pipeline with these weights of its network; `origin` names them in an error.

    Raises:
        FileNotFoundError: If the folder is not a run.
        DataError: If its recipe is damaged, or the weights do not fit it.
        ValueError: If the run is not of a flow recipe.
    """
    _refuse_no_flow(run)
    recipe = run.config()
    try:
        encoders = load_encoders(recipe["encoders"])
        shape = network_config(recipe["model"], recipe["data"]["size_px"], *encoders)
        network = with_weights(shape, weights, origin)
        return _pipeline(network, encoders, run.config_path, device, precision)
    except (KeyError, TypeError) as error:
        raise DataError(f"{run.config_path} is damaged: {error!r} while it was read") from error


def newest_checkpoint(run: Run) -> Path:
    """The folder of a run's newest checkpoint whose averaged weights are whole.

    Raises:
        FileNotFoundError: If the run has no checkpoint yet.
        DataError: If all are damaged.
    """
    found = newest_intact(run, "ema")
    if found is None:
        raise FileNotFoundError(f"{run.folder} has no checkpoint yet; train it first")
    return found


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, verified, floating ones as float32.

    Raises:
        DataError: If a file is damaged.
    """
    return _in_full(load_group(checkpoint, "ema"))


def _pipeline(
    network: nn.Module,
    encoders: tuple[Autoencoder, TextEncoders],
    config: Path,
    device: torch.device,
    precision: str,
) -> Pipeline:
    """Put the parts together with the recipe's settings of sampling."""
    autoencoder, text = encoders
    shape: Any = network.config
    drawing = drawing_of(read_json(config), config)
    return Pipeline(
        network,
        autoencoder,
        text,
        formulation=drawing.formulation,
        side_px=shape.base_latent_side * autoencoder.factor,
        unconditional_text=drawing.unconditional_text,
        device=device,
        precision=precision,
        recipe_hash=sha256(config),
        options=drawing.options,
    )


def load_encoders(encoders: Mapping[str, Any]) -> tuple[Autoencoder, TextEncoders]:
    """The autoencoder and text encoders that a recipe's `encoders` section names."""
    folders = encoder_folders(encoders)
    return Autoencoder.load(folders.autoencoder), TextEncoders.load(folders.text)


def network_config(
    model: Mapping[str, Any], size_px: int, autoencoder: Autoencoder, text: TextEncoders
) -> Any:
    """The network that a recipe's `model` section means with these encoders.

    Args:
        model: Fields of one of `rectiflow.nn.settings`, told apart by `kind`.
        size_px: Side of the pictures trained on.
        autoencoder: Gives the latents' channels and scale.
        text: Gives the widths of context and pooled text.

    Raises:
        ValueError: If a field is unknown or out of range, or the network takes no such side.
    """
    interface = Interface(
        latent_channels=autoencoder.latent_channels,
        context_width=text.context_width,
        pooled_width=text.pooled_width,
        latent_side=size_px // autoencoder.factor,
    )
    return backbones.network_config(from_dict(AnyNetworkSettings, model), interface)


def network_from(bundle: Path) -> nn.Module:
    """Read the network of a bundle, in float32; its folder has the name of its kind.

    Raises:
        DataError: If a file is damaged, or weights and configuration do not fit.
    """
    kinds = [kind for kind in BACKBONES if (bundle / kind).is_dir()]
    if len(kinds) != 1:
        raise DataError(f"{bundle} must hold one network ({', '.join(BACKBONES)}), got {kinds}")
    config, weights = (bundle / kinds[0] / name for name in ("config.json", "model.safetensors"))
    try:
        values = read_json(config)
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        shape = BACKBONES[kinds[0]].config(**fields)
    except (TypeError, ValueError) as error:
        raise DataError(f"{config} is not a configuration of {kinds[0]}: {error}") from error
    return with_weights(shape, read_weights(weights), weights)


def with_weights(config: Any, weights: Mapping[str, Tensor], file: Path) -> nn.Module:
    """A network of this shape with these weights; `file` names them in an error."""
    with torch.device("meta"):  # no time spent on first weights that are replaced at once
        network = backbone_of(config).build(config)
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
    return _in_full(weights)


def _in_full(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
