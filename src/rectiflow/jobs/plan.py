"""What a recipe would do and cost, without doing it: the answer of `--dry-run`."""

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rectiflow import config
from rectiflow.data.manifest import SAMPLE_ARRAYS
from rectiflow.runs import Run
from rectiflow.training.recipe import EncodersRecipe, FlowRecipe, Recipe
from rectiflow.training.resume import check_claim
from rectiflow.training.settings.data import ScenesData, StoreData
from rectiflow.training.settings.training import TrainingSettings

if TYPE_CHECKING:
    from rectiflow.preparation.encode import Encoders

FLOAT_BYTES = 4


def plan(recipe: Recipe, folder: Path) -> Mapping[str, Any]:
    """The resolved recipe with parameters, FLOPs, memory and disk; refuses what `train` refuses.

    Raises:
        ValueError: If the folder is another recipe's run, or the formulation is unknown.
        FileNotFoundError: If the encoders of a flow recipe are not there.
    """
    check_claim(Run(folder), recipe)
    costs = _flow_costs(recipe) if isinstance(recipe, FlowRecipe) else _module_costs(recipe)
    return {
        "run": str(folder),
        "recipe": config.to_dict(recipe),
        "costs": {**costs, "disk_free_bytes": _free_bytes(folder)},
    }


def _flow_costs(recipe: FlowRecipe) -> dict[str, Any]:
    from rectiflow.jobs.flow import shape_of
    from rectiflow.jobs.grids import drawing_options
    from rectiflow.nn.backbones import backbone_of
    from rectiflow.preparation.encode import Encoders
    from rectiflow.sampling.load import load_encoders

    drawing_options(recipe)  # refuses unknown names, and what cannot be drawn
    autoencoder, text = load_encoders(dataclasses.asdict(recipe.encoders))
    shape = shape_of(recipe, autoencoder, text)
    side = recipe.data.size_px // autoencoder.factor
    backbone = backbone_of(shape)
    products = backbone.products(shape, side, side, tuple(text.segments))
    costs = _training_costs(backbone.num_parameters(shape), recipe.training)
    step_flops = products.training_flops * recipe.training.batch_size
    costs |= {"forward_flops": products.forward_flops, "step_flops": step_flops}
    if recipe.training.num_steps is not None:
        costs["total_flops"] = step_flops * recipe.training.num_steps
    return costs | _store_costs(recipe, Encoders(autoencoder, text))


def _store_costs(recipe: FlowRecipe, encoders: "Encoders") -> dict[str, int]:
    """Bytes of the encoded store; at most, because equal captions of a shard are stored once.

    Raises:
        ValueError: If the recipe names a store that it cannot train on.
    """
    if isinstance(recipe.data, StoreData):
        from rectiflow.jobs.flow import open_data

        return {"store_bytes": open_data(recipe.data, encoders).training.manifest.num_bytes}
    arrays = encoders.arrays(recipe.data.size_px)
    sizes = {k: math.prod(a.shape) * np.dtype(a.dtype).itemsize for k, a in arrays.items()}
    latent = sum(sizes.pop(name) for name in SAMPLE_ARRAYS)
    if not isinstance(recipe.data, ScenesData):
        return {"store_bytes_per_sample": latent + sum(sizes.values())}
    per_sample = latent + 2 * sum(sizes.values())  # two captions
    num = recipe.data.num_scenes + recipe.data.num_validation
    return {"store_bytes_per_sample": per_sample, "store_bytes_at_most": num * per_sample}


def _module_costs(recipe: Any) -> dict[str, Any]:
    """Parameters of the modules that the two other kinds train; they are built, not trained."""
    if isinstance(recipe, EncodersRecipe):
        from rectiflow.encoders.image import ImageEncoder
        from rectiflow.encoders.pretraining import EncodersInTraining
        from rectiflow.encoders.text import TextEncoders
        from rectiflow.jobs.encoders import corpus

        text = TextEncoders.new(recipe.model, corpus(recipe.data))
        image = ImageEncoder.new(recipe.model, recipe.data.size_px)
        module: torch.nn.Module = EncodersInTraining(text, image)
    else:
        from rectiflow.encoders.autoencoder import Autoencoder

        module = Autoencoder.new(recipe.model)
    num = sum(parameter.numel() for parameter in module.parameters())
    return _training_costs(num, recipe.training)


def _training_costs(num_parameters: int, training: TrainingSettings) -> dict[str, Any]:
    """Memory of weights, gradients, averages and optimizer; activations come on top.

    Muon keeps one running average per weight where AdamW keeps two; all are counted as AdamW's.
    """
    further = len(training.averages.decays) + len(training.averages.widths)
    per_weight = FLOAT_BYTES * (1 + 1 + 1 + 2 + further)  # weights, gradients, EMA, two averages
    checkpoint = FLOAT_BYTES * (1 + 1 + 2 + further) * num_parameters
    num_milestones = training.retain.num_milestones if training.retain.every_steps else 0
    kept = {}
    if training.averages.widths and training.num_steps is not None:
        num = math.ceil(training.num_steps / training.averages.snapshot_every_steps)
        num = min(num, training.retain.num_averages + 1)
        widths = len(training.averages.widths)
        kept["kept_averages_bytes"] = FLOAT_BYTES * num_parameters * widths * num
    return {
        "parameters": num_parameters,
        "training_state_bytes": per_weight * num_parameters,
        "checkpoint_bytes": checkpoint,
        "checkpoints_bytes": checkpoint * (num_milestones + training.retain.newest + 1),
        **kept,
    }


def _free_bytes(folder: Path) -> int:
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
