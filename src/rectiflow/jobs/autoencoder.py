"""Recipes of kind `autoencoder`."""

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rectiflow.data.draws import Draws
from rectiflow.data.picture_source import PictureSource
from rectiflow.encoders.autoencoder import Autoencoder, measure_latent_statistics
from rectiflow.jobs.grids import ReconstructionGrid
from rectiflow.jobs.job import Job
from rectiflow.jobs.records import claim_data, data_identity, picture_sources
from rectiflow.runs import Run, replacing_folder
from rectiflow.training.hooks import Hooks
from rectiflow.training.objectives.autoencoder import AutoencoderObjective
from rectiflow.training.ranks import Ranks
from rectiflow.training.recipe import AutoencoderRecipe
from rectiflow.training.validation import HeldOutValidation

STATISTICS_PICTURES = 2048  # latents of so many pictures give shift and scale
SHOWN_PICTURES = 16  # on the sheet of reconstructions, as far as so many are held out
_CHUNK = 64


def autoencoder_job(recipe: AutoencoderRecipe, run: Run, ranks: Ranks) -> Job:
    """An autoencoder on pictures; its export is RUN/export/vae, normalised."""
    training, held_out = picture_sources(recipe.data, recipe.seed)
    ranks.once(lambda: claim_data(run, data_identity(recipe.data)))
    model = Autoencoder.new(recipe.model, seed=recipe.seed)
    objective = AutoencoderObjective(model, recipe.objective)
    validate = HeldOutValidation(objective, held_out, recipe.seed, ranks=ranks)
    shown = torch.cat(list(_images(held_out, SHOWN_PICTURES)))
    hooks = Hooks(validate=validate, observers=(ReconstructionGrid(model, shown),))

    def finish(run: Run) -> Mapping[str, Any]:
        mean, std = measure_latent_statistics(model, _images(training, STATISTICS_PICTURES))
        model.normalise_latents(mean, std)
        shutil.rmtree(run.export, ignore_errors=True)
        with replacing_folder(run.export) as partial:
            model.save(partial / "vae")
        return {"shift_factor": mean, "scaling_factor": 1 / std}

    return Job(objective=objective, source=training, hooks=hooks, finish=finish)


def _images(source: PictureSource, num: int) -> Iterator[Tensor]:
    """The first `num` pictures of a source, in its order, in chunks."""
    positions = np.arange(min(num, source.num_samples), dtype=np.int64)
    for part in np.array_split(positions, -(-len(positions) // _CHUNK)):
        yield source.batch(part, Draws(0, part))["image"]
