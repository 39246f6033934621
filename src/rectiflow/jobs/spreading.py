"""How a recipe's run is spread over processes, where `parallel.kind` leaves it open."""

import dataclasses
import logging
from typing import TYPE_CHECKING

import torch

from rectiflow.training.recipe import FlowRecipe, Recipe
from rectiflow.training.settings.parallel import ParallelSettings

if TYPE_CHECKING:
    from rectiflow.planning.gpus import Gpu

_log = logging.getLogger(__name__)


def spreading_of(recipe: Recipe, device: torch.device, num: int) -> ParallelSettings:
    """The recipe's `parallel` section with `auto` resolved for `num` processes, one a device.

    On GPUs the way that a plan advises for a flow, with the recipe's own microbatches and
    checkpointing (what forgets only some activations is taken to keep all); DDP where there is no
    plan for the card, on CPUs, and for models that are no networks of a flow, which are small.
    """
    settings = recipe.parallel
    if settings.kind != "auto" or num == 1:
        return settings
    kind = "ddp"
    if device.type == "cuda" and isinstance(recipe, FlowRecipe):
        kind = _advised(recipe, torch.cuda.get_device_name(device), num)
    return dataclasses.replace(settings, kind=kind)


def _advised(recipe: FlowRecipe, card: str, num: int) -> str:
    from rectiflow.jobs.subjects import recipe_subject
    from rectiflow.planning.advice import Cluster, advised, ways_of

    gpu = gpu_of(card)
    if gpu is None:
        _log.warning("there is no plan for a %s: parallel.kind is ddp", card)
        return "ddp"
    subject, training = recipe_subject(recipe), recipe.training
    forgets_all = training.speed.activation_checkpointing == "full"
    forgets_all &= not training.speed.activation_budget
    cluster = Cluster(
        gpu=gpu,
        num_gpus=num,
        batch=-(-subject.batch // num) * num,
        microbatch=-(-subject.batch // (num * training.num_microbatches)),
        is_checkpointed=forgets_all and subject.workload.checkpointed_bytes is not None,
        optimizer=subject.optimizer,
        num_averages=subject.num_averages,
        is_compiled=training.speed.compile != "none",
    )
    ways = ways_of(subject.workload, cluster)
    try:
        return advised(ways, num).strategy
    except ValueError as error:
        _log.warning("parallel.kind is fsdp, which needs the least memory: %s", error)
        return "fsdp"


def gpu_of(card: str) -> "Gpu | None":
    """The device of a plan by the name that CUDA gives it; None if there is none."""
    from rectiflow.planning.gpus import GPUS

    name = "".join(card.lower().split())
    return next((gpu for key, gpu in GPUS.items() if key != "cpu" and key in name), None)
