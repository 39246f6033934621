"""Train a recipe: make it ready, run the loop, export the result."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rectiflow.checkpoints import load_group, newest
from rectiflow.devices import keep_freed_memory, resolve_device
from rectiflow.jobs.job import Job, Progress
from rectiflow.jobs.spreading import spreading_of
from rectiflow.runs import Run, write_json
from rectiflow.sampling.bundle import packaged_bundles, packaged_names
from rectiflow.sealing import MANIFEST, verify
from rectiflow.training.ema import copy_into, named_tensors
from rectiflow.training.hooks import Result
from rectiflow.training.loop import train
from rectiflow.training.parallel import is_split, joined, place_in
from rectiflow.training.ranks import ALONE, Ranks
from rectiflow.training.recipe import Recipe, load_recipe
from rectiflow.training.resume import claim
from rectiflow.training.settings.training import TrainingSettings
from rectiflow.training.trackers import check_trackers


def run_training(
    recipe_name: str,
    assignments: Sequence[str],
    folder: Path,
    dry_run: bool,
    progress: Progress,
) -> Mapping[str, Any]:
    """Train what a recipe describes, or go on where its run stopped.

    Args:
        recipe_name: A packaged recipe by name, or a path to a TOML file.
        assignments: Changes of settings, each "section.field=value".
        folder: Folder of the run.
        dry_run: Whether to return the resolved recipe and its cost instead.
        progress: Told how far the work is.

    Returns:
        How it ended, for a person or a machine; or the plan.

    Raises:
        ValueError: If the recipe, a setting, or the folder is wrong.
        DataError: If a file it needs is damaged.
    """
    recipe = load_recipe(recipe_name, assignments)
    if dry_run:
        from rectiflow.jobs.plan import plan

        return plan(recipe, folder)
    check_trackers(recipe.training.trackers)
    device = resolve_device(recipe.training.device)
    settings = spreading_of(recipe, device, place_in(os.environ).num)
    with joined(settings, device) as ranks:
        return _together(recipe, Run(folder), progress if ranks.is_first else _silent, ranks)


def _together(recipe: Recipe, run: Run, progress: Progress, ranks: Ranks) -> Mapping[str, Any]:
    ranks.once(lambda: claim(run, recipe))
    settings = ranks.once(lambda: _with_start(recipe, run))
    job = _job(recipe, run, progress, ranks)
    result = _train(job, settings, recipe.seed, run, progress, ranks)
    if result.status == "finished":
        # What is split is exported from a model that is whole.
        ranks.once(
            lambda: _finish(_job(recipe, run, _silent, ALONE) if is_split(ranks) else job, run)
        )
    return ranks.once(lambda: _summary(result, run))


def _silent(stage: str, done: int, total: int | None, facts: Mapping[str, Any]) -> None:
    """Rank 0 tells of the progress, the others do not."""


def _with_start(recipe: Recipe, run: Run) -> TrainingSettings:
    """The settings of training with `init_from` as a path that is there, a bundle verified.

    A begun run no longer needs where it started from.
    """
    settings = recipe.training
    name = settings.init_from
    if name is None or newest(run) is not None:
        return settings
    place = packaged_bundles() / name if name in packaged_names() else Path(name)
    if not place.exists():
        raise FileNotFoundError(f"training.init_from: no run, bundle or file at {place}")
    if (place / MANIFEST).is_file():
        if recipe.kind == "encoders":
            raise ValueError(
                "training.init_from: a bundle cannot start encoders, whose heads of training it "
                f"lacks; give a run of kind encoders, got {name}"
            )
        verify(place)
    return dataclasses.replace(settings, init_from=str(place))


def _job(recipe: Recipe, run: Run, progress: Progress, ranks: Ranks) -> Job:
    """The job of a recipe's kind; each imports only the libraries that it needs."""
    if recipe.kind == "autoencoder":
        from rectiflow.jobs.autoencoder import autoencoder_job

        return autoencoder_job(recipe, run, ranks)
    if recipe.kind == "encoders":
        from rectiflow.jobs.encoders import encoders_job

        return encoders_job(recipe, run, ranks)
    from rectiflow.jobs.flow import flow_job

    return flow_job(recipe, run, progress, ranks)


def _train(
    job: Job, settings: TrainingSettings, seed: int, run: Run, progress: Progress, ranks: Ranks
) -> Result:
    def on_step(step: int, num_steps: int | None, metrics: Mapping[str, Any]) -> None:
        shown = ("loss", "val_loss_ema", "samples_per_second")
        progress("training", step, num_steps, {k: metrics[k] for k in shown if k in metrics})

    if resolve_device(settings.device).type == "cpu":
        keep_freed_memory()
    hooks = dataclasses.replace(job.hooks, on_progress=on_step, facts=job.facts)
    return train(
        job.objective,
        job.source,
        settings,
        run,
        seed=seed,
        hooks=hooks,
        ranks=ranks,
    )


def _finish(job: Job, run: Run) -> None:
    """Export the averaged weights once; a run that was exported before is left alone."""
    result = run.result() or {}
    if "export" in result:
        return
    last = newest(run)
    assert last is not None  # a finished run has a checkpoint
    averaged = load_group(last, "ema")
    copy_into(named_tensors(job.objective.model), averaged, "the averaged weights")
    job.objective.model.eval()
    write_json(run.result_path, {**result, "export": dict(job.finish(run))})


def _summary(result: Result, run: Run) -> Mapping[str, Any]:
    written = run.result() or {}
    return {
        "status": result.status,
        "message": result.message,
        "step": result.step,
        "num_steps": result.num_steps,
        **{k: v for k, v in result.metrics.items() if isinstance(v, int | float)},
        **{k: v for k, v in written.get("export", {}).items() if isinstance(v, int | float)},
    }
