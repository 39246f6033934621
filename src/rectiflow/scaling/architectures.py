"""The architecture study: Fig. 4 of the SD3 paper (arXiv:2403.03206) in the small."""

import dataclasses
from typing import Final, Literal, get_args

from rectiflow.config import nearest
from rectiflow.scaling.costs import cost_of, matched_steps
from rectiflow.scaling.study import Study, Variant

Match = Literal["flops", "parameters"]
RECIPE: Final = "scenes-study"
REFERENCE: Final = "mmdit2"

_UNET: Final = ("model.num_resnets=1", "model.head_width=16", "model.norm_groups=16")

BY_FLOPS: Final = (
    Variant(name="mmdit2", label="MM-DiT, 2 sets", settings=()),
    Variant(name="mmdit3", label="MM-DiT, 3 sets", settings=("model.num_weight_sets=3",)),
    Variant(name="dit", label="DiT", settings=("model.kind=dit",)),
    Variant(name="crossdit", label="CrossDiT", settings=("model.kind=crossdit",)),
    Variant(
        name="uvit",
        label="UViT",
        settings=(
            "model.kind=uvit",
            "model.channels=[64]",
            "model.num_resnets=1",
            "model.norm_groups=16",
        ),
    ),
    Variant(
        name="unet",
        label="UNet (SD2)",
        settings=(
            "model.kind=unet",
            "model.channels=[32, 64, 128]",
            "model.depths=[1, 1, 0]",
            *_UNET,
        ),
    ),
)
"""Shapes whose forward passes cost about the same; the number of steps does the rest."""

_SAME_PARAMETERS: Final = {
    "dit": ("model.depth=3", "model.num_heads=2"),
    "crossdit": ("model.depth=3", "model.num_heads=2"),
}

NOTES: Final = {
    "flops": (
        "Shapes of about equal cost, then the number of steps that makes the training FLOPs equal "
        "(3 times the forward pass, text tokens included, encoders not). The same batch size, so a "
        "cheaper network sees more pictures.",
    ),
    "parameters": (
        "The shapes nearest to the reference in parameters that the networks' dials allow: heads "
        "of 64 channels make the steps coarse, and three sets of weights have no dial but depth. "
        "The same number of steps for all, so training FLOPs differ as the table tells.",
    ),
}


def architecture_study(match: str = "flops", num_seeds: int = 3) -> Study:
    """The study with every run's number of steps settled.

    Args:
        match: What the networks have in common beside the data: "flops" of the whole training, or
            "parameters" and the number of steps.
        num_seeds: Runs of every network.

    Raises:
        ValueError: If `match` is neither, or there are no seeds.
    """
    if match not in get_args(Match):
        raise ValueError(f"no study at matched {match!r}; {nearest(match, get_args(Match))}")
    variants = _matched_by_steps() if match == "flops" else _matched_by_shape()
    return Study(
        name="architectures",
        part=match,
        title={"flops": "Matched training FLOPs", "parameters": "Matched parameters"}[match],
        recipe=RECIPE,
        variants=variants,
        reference=REFERENCE,
        num_seeds=num_seeds,
        notes=NOTES[match],
    )


def _matched_by_steps() -> tuple[Variant, ...]:
    costs = {variant.name: cost_of(RECIPE, variant.settings) for variant in BY_FLOPS}
    steps = matched_steps(costs, REFERENCE)
    return tuple(
        _changed(variant, f"training.num_steps={steps[variant.name]}") for variant in BY_FLOPS
    )


def _matched_by_shape() -> tuple[Variant, ...]:
    found = []
    for variant in BY_FLOPS:
        if variant.name == "unet":
            levels = ("model.channels=[32, 64]", "model.depths=[1, 1]")
            variant = dataclasses.replace(variant, settings=("model.kind=unet", *levels, *_UNET))
        found.append(_changed(variant, *_SAME_PARAMETERS.get(variant.name, ())))
    return tuple(found)


def _changed(variant: Variant, *settings: str) -> Variant:
    return dataclasses.replace(variant, settings=(*variant.settings, *settings))
