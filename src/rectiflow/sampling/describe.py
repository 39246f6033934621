"""What a trained model is made of and what a picture costs."""

import dataclasses
from typing import Any

from torch import nn

from rectiflow.nn.backbones import backbone_of
from rectiflow.runs import Run
from rectiflow.sampling.guiding import num_network_calls
from rectiflow.sampling.load import load
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.sources import Source


def describe(source: Source) -> dict[str, Any]:
    """Facts about a model that can draw, ready for JSON.

    `picture_flops` are those of the network for one picture with the model's own solver, steps and
    guidance, None if the solver is adaptive; text and autoencoder are not counted, blocks that
    guidance leaves out are.
    """
    pipeline = load(source.folder)
    network: Any = pipeline.network
    shape = network.config
    rows = pipeline.side_px // pipeline.autoencoder.factor
    backbone, segments = backbone_of(shape), tuple(pipeline.text.segments)
    forward = backbone.forward_flops(shape, rows, rows, segments)
    largest = shape.max_latent_side
    calls = num_network_calls(pipeline.options, pipeline.formulation)
    return {
        "kind": source.kind,
        "folder": str(source.folder),
        "recipe": _recipe_name(source),
        "recipe_hash": pipeline.recipe_hash,
        "network": {"kind": backbone.kind, **dataclasses.asdict(shape)},
        "takes_pooled": shape.takes_pooled,
        "parameters": {backbone.kind: backbone.num_parameters(shape), **_others(pipeline)},
        "side_px": pipeline.side_px,
        "largest_side_px": None if largest is None else largest * pipeline.autoencoder.factor,
        "num_image_tokens": (rows // shape.latent_multiple) ** 2,
        "num_text_tokens": sum(segments),
        "forward_flops": forward,
        "picture_flops": None if calls is None else calls * forward,
        "sampling": dataclasses.asdict(pipeline.options),
        "bytes": sum(path.stat().st_size for path in source.folder.rglob("*") if path.is_file()),
    }


def _others(pipeline: Pipeline) -> dict[str, int]:
    """Parameters of everything but the network."""
    clip_l, clip_g, t5 = pipeline.text.models
    parts: dict[str, nn.Module] = {"clip_l": clip_l, "clip_g": clip_g, "t5": t5}
    parts["autoencoder"] = pipeline.autoencoder
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _recipe_name(source: Source) -> str:
    return str(Run(source.folder).config().get("name", source.folder.name))
