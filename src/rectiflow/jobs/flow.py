"""Recipes of kind `flow`: frozen encoders, an encoded store, a network."""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rectiflow.data.folder import FolderRecords
from rectiflow.data.manifest import VERSION, json_hash
from rectiflow.data.stored import StoreSource
from rectiflow.devices import resolve_device
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.text import TextEncoders, TextStates
from rectiflow.flow.formulations import formulation
from rectiflow.jobs.grids import PictureGrid, drawing_options, grid_prompts
from rectiflow.jobs.job import Job, Progress
from rectiflow.jobs.records import cache_of, claim_data, data_identity, scenes_of
from rectiflow.nn.backbones import new_network
from rectiflow.preparation.encode import Encoders
from rectiflow.preparation.prepare import summary
from rectiflow.preparation.prepared import Prepared, open_prepared, prepare_folder, prepare_scenes
from rectiflow.preparation.reconstruction import reconstruction_psnr, reconstruction_warning
from rectiflow.runs import Run, replacing_folder, write_json
from rectiflow.sampling.load import load_encoders, network_config
from rectiflow.sampling.sources import encoder_folders
from rectiflow.sealing import seal, sha256
from rectiflow.training.attention_observer import AttentionObserver
from rectiflow.training.ema import named_tensors
from rectiflow.training.evaluation import Observer
from rectiflow.training.hooks import Hooks
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.ranks import Ranks
from rectiflow.training.recipe import FlowRecipe
from rectiflow.training.settings.data import FolderData, PictureData, ScenesData, StoreData
from rectiflow.training.validation import FlowValidation

_log = logging.getLogger(__name__)


def flow_job(recipe: FlowRecipe, run: Run, progress: Progress, ranks: Ranks) -> Job:
    """A network on latents and text states, both encoded once into `<runs>/stores`."""
    drawing_options(recipe)  # its mistakes are told before anything is encoded
    section = dataclasses.asdict(recipe.encoders)
    autoencoder, text = load_encoders(section)
    network = _new_network(recipe, autoencoder, text)
    objective = FlowObjective(
        network, formulation(recipe.objective.formulation), recipe.objective.text_dropout
    )
    prepared, facts = _prepare(recipe, run, autoencoder, text, progress, ranks)
    training, held_out = _sources(recipe, prepared)
    grid = PictureGrid(network, autoencoder, text, recipe, grid_prompts(recipe, prepared))
    observers: list[Observer] = [grid]
    if num := recipe.training.attention_blocks:
        observers.append(AttentionObserver(objective, held_out, recipe.seed, num))
    validate = FlowValidation(objective, held_out, recipe.seed, ranks=ranks)
    hooks = Hooks(validate=validate, observers=observers)

    def finish(run: Run) -> Mapping[str, Any]:
        export(network, recipe.model.kind, section, run, run.export)
        return {recipe.model.kind: f"export/{recipe.model.kind}"}

    return Job(objective=objective, source=training, hooks=hooks, finish=finish, facts=facts)


def _new_network(recipe: FlowRecipe, autoencoder: Autoencoder, text: TextEncoders) -> nn.Module:
    """An untrained network whose weights are a function of the recipe's seed."""
    network: Any = new_network(shape_of(recipe, autoencoder, text))
    network.reset_parameters(torch.Generator().manual_seed(recipe.seed))
    if not network.config.takes_pooled:
        _log.warning("a network of kind %s has no use for the pooled text", recipe.model.kind)
    return network


def shape_of(recipe: FlowRecipe, autoencoder: Autoencoder, text: TextEncoders) -> Any:
    """The shape of the recipe's network on these encoders."""
    section = dataclasses.asdict(recipe.model)
    return network_config(section, recipe.data.size_px, autoencoder, text)


def _prepare(
    recipe: FlowRecipe,
    run: Run,
    autoencoder: Autoencoder,
    text: TextEncoders,
    progress: Progress,
    ranks: Ranks,
) -> tuple[Prepared, Mapping[str, Any]]:
    data = recipe.data
    device = resolve_device(recipe.training.device)
    encoders = Encoders(autoencoder.to(device), text.to(device), device)
    stamp = dataclasses.asdict(encoders.stamp())
    ranks.once(lambda: claim_data(run, json_hash([data_identity(data), stamp])))
    return _encode(recipe, run, encoders, autoencoder, progress)  # all ranks share the work


def _encode(
    recipe: FlowRecipe,
    run: Run,
    encoders: Encoders,
    autoencoder: Autoencoder,
    progress: Progress,
) -> tuple[Prepared, Mapping[str, Any]]:
    data = recipe.data

    def report(done: int, total: int) -> None:
        progress("encoding", done, total, {})

    if isinstance(data, StoreData):
        return open_data(data, encoders), {"store": data.store}
    folder = store_folder(data, run, encoders)
    if isinstance(data, ScenesData):
        prepared = prepare_scenes(
            encoders,
            folder,
            seed=data.seed,
            num_scenes=data.num_scenes,
            num_validation=data.num_validation,
            size_px=data.size_px,
            on_progress=report,
        )
        return prepared, {"store": folder.name}
    decibels = reconstruction_psnr(
        FolderRecords(data.path, data.size_px), autoencoder, device=encoders.device
    )
    _log.warning("the autoencoder keeps these pictures at %.1f dB (PSNR)", decibels)
    if warning := reconstruction_warning(decibels, data.path):
        _log.warning("%s", warning)
    prepared = prepare_folder(
        encoders,
        folder,
        path=data.path,
        size_px=data.size_px,
        num_validation=data.num_validation,
        on_progress=report,
    )
    _log.warning("%s", summary(prepared.training))
    facts = {"store": folder.name, "reconstruction_psnr_db": decibels}
    return prepared, facts


def open_data(data: StoreData, encoders: Encoders) -> Prepared:
    """The stores of a recipe that says where they are; refusals as `open_prepared`."""
    return open_prepared(
        encoders,
        path=data.store,
        validation=data.validation,
        size_px=data.size_px,
        num_validation=data.num_validation,
        cache=cache_of(data),
    )


def store_folder(data: PictureData, run: Run, encoders: Encoders) -> Path:
    """Where the encoded data of a recipe lies: beside the run, shared by all runs there.

    The name tells the data; its end is a hash of data and encoders, so that runs that differ in
    nothing else share a store and no others do.
    """
    facts = dataclasses.asdict(data)
    for name in ("synthetic_fraction", "latent"):  # enter when batches are made
        facts.pop(name, None)
    stamp = dataclasses.asdict(encoders.stamp())
    if isinstance(data, ScenesData):
        facts["scenes"] = scenes_of(data).description()
        name = f"scenes-{data.num_scenes}"
    else:
        facts["files"] = FolderRecords(data.path, data.size_px).description()
        name = Path(data.path).resolve().name or "folder"
    key = json_hash({"data": facts, "encoders": stamp, "version": VERSION})
    return run.folder.resolve().parent / "stores" / f"{name}-{data.size_px}px-{key[:8]}"


def _sources(recipe: FlowRecipe, prepared: Prepared) -> tuple[StoreSource, StoreSource]:
    # Own pictures have one caption; the fraction has no effect on those.
    data = recipe.data
    fraction = 1.0 if isinstance(data, FolderData) else data.synthetic_fraction
    training = StoreSource(
        prepared.training,
        seed=recipe.seed,
        states=TextStates,
        synthetic_fraction=fraction,
        rows=prepared.training_rows,
        latent=data.latent,
    )
    held_out = StoreSource(
        prepared.validation,
        seed=recipe.seed,
        states=TextStates,
        synthetic_fraction=fraction,
        rows=prepared.validation_rows,
        shuffle=False,
    )
    return training, held_out


def export(
    network: nn.Module, kind: str, encoders: Mapping[str, Any], run: Run, folder: Path
) -> None:
    """Write one bundle: the network as it is, and the encoders it was trained on.

    It appears whole or not at all, in the place of one that a killed process had finished.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with replacing_folder(folder) as partial:
        _fill(partial, network, kind, encoders, run)


def _fill(
    folder: Path, network: nn.Module, kind: str, encoders: Mapping[str, Any], run: Run
) -> None:
    folders = encoder_folders(encoders)
    shutil.copytree(folders.autoencoder, folder / "vae")
    for part in sorted(folders.text.iterdir()):
        if part.is_dir() and part.name.startswith(("text_encoder", "tokenizer", "image_encoder")):
            shutil.copytree(part, folder / part.name)
    (folder / kind).mkdir()
    shape: Any = network.config
    write_json(folder / kind / "config.json", dataclasses.asdict(shape))
    tensors = {
        name: tensor.detach().contiguous() for name, tensor in named_tensors(network).items()
    }
    save_file(tensors, folder / kind / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(run.config_path, folder / "config.json")
    seal(folder, {"recipe_hash": sha256(folder / "config.json")})
