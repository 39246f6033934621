"""Recipes of kind `encoders`: the text encoders and their vision tower."""

import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from rectiflow.data.folder import FolderRecords
from rectiflow.data.scenes import caption, make_scene
from rectiflow.encoders.calibration import normalise_states
from rectiflow.encoders.image import ImageEncoder
from rectiflow.encoders.pretraining import EncodersInTraining
from rectiflow.encoders.text import TextEncoders
from rectiflow.jobs.job import Job
from rectiflow.jobs.records import claim_data, data_identity, picture_sources
from rectiflow.runs import Run, replacing_folder
from rectiflow.training.hooks import Hooks
from rectiflow.training.objectives.encoders import EncodersObjective
from rectiflow.training.ranks import Ranks
from rectiflow.training.recipe import EncodersRecipe
from rectiflow.training.settings.data import PictureData, ScenesData
from rectiflow.training.validation import HeldOutValidation

CORPUS_SCENES = 20_000  # captions of so many scenes make the vocabulary and the context lengths


def encoders_job(recipe: EncodersRecipe, run: Run, ranks: Ranks) -> Job:
    """Text encoders on captions and pictures; RUN/export gets six folders and `image_encoder`."""
    if recipe.training.num_microbatches != 1:
        raise ValueError(
            "training.num_microbatches must be 1 for encoders, whose loss compares the samples of "
            f"a batch, got {recipe.training.num_microbatches}"
        )
    if not ranks.is_alone:
        raise ValueError(
            "encoders must be trained in one process: their loss compares the samples of a batch; "
            f"torchrun started {ranks.num}"
        )
    training, held_out = picture_sources(recipe.data, recipe.seed)
    claim_data(run, data_identity(recipe.data))
    text = TextEncoders.new(recipe.model, corpus(recipe.data), seed=recipe.seed)
    image = ImageEncoder.new(recipe.model, recipe.data.size_px, seed=recipe.seed + 1)
    model = EncodersInTraining(text, image, seed=recipe.seed + 2)
    fraction = recipe.data.synthetic_fraction if isinstance(recipe.data, ScenesData) else 1.0
    objective = EncodersObjective(model, recipe.objective, fraction)
    validate = HeldOutValidation(objective, held_out, recipe.seed)

    def finish(run: Run) -> Mapping[str, Any]:
        scales = normalise_states(text, corpus(recipe.data))
        shutil.rmtree(run.export, ignore_errors=True)
        with replacing_folder(run.export) as partial:
            text.save(partial)
            image.save(partial)
        clip_tokens, t5_tokens = text.segments
        facts = {f"scale_{name}_before": scale for name, scale in scales.items()}
        return {"clip_tokens": clip_tokens, "t5_tokens": t5_tokens, **facts}

    return Job(objective=objective, source=training, hooks=Hooks(validate=validate), finish=finish)


def corpus(data: PictureData) -> Iterable[str]:
    """The captions that vocabulary and context lengths are made from."""
    if isinstance(data, ScenesData):
        for index in range(min(data.num_scenes, CORPUS_SCENES)):
            yield from caption(make_scene(data.seed, index))
        return
    records = FolderRecords(data.path, data.size_px)
    for index in range(len(records)):
        yield from records.record(index).captions.values()
