"""What a trained model is made of and what a picture costs."""

import dataclasses
from typing import Any

from torch import nn

from rectiflow.nn.sizes import forward_flops, num_parameters
from rectiflow.runs import Run
from rectiflow.sampling.load import load
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.sources import Source


def describe(source: Source) -> dict[str, Any]:
    """Facts about a model that can draw, ready for JSON.

    `picture_flops` are those of the network for one picture with the model's own solver, steps and
    guidance; text and autoencoder are not counted, blocks that guidance leaves out are.
    """
    pipeline = load(source.folder)
    network: Any = pipeline.network
    shape = network.config
    rows = pipeline.side_px // pipeline.autoencoder.factor
    num_text_tokens = sum(pipeline.text.segments)
    forward = forward_flops(shape, rows, rows, num_text_tokens)
    return {
        "kind": source.kind,
        "folder": str(source.folder),
        "recipe": _recipe_name(source),
        "recipe_hash": pipeline.recipe_hash,
        "network": dataclasses.asdict(shape),
        "parameters": _parameters(pipeline, num_parameters(shape)),
        "side_px": pipeline.side_px,
        "largest_side_px": shape.table_side * shape.patch_size * pipeline.autoencoder.factor,
        "num_image_tokens": (rows // shape.patch_size) ** 2,
        "num_text_tokens": num_text_tokens,
        "forward_flops": forward,
        "picture_flops": pipeline.options.network_calls * forward,
        "sampling": dataclasses.asdict(pipeline.options),
        "bytes": sum(path.stat().st_size for path in source.folder.rglob("*") if path.is_file()),
    }


def _parameters(pipeline: Pipeline, of_network: int) -> dict[str, int]:
    clip_l, clip_g, t5 = pipeline.text.models
    parts: dict[str, nn.Module] = {"clip_l": clip_l, "clip_g": clip_g, "t5": t5}
    parts["autoencoder"] = pipeline.autoencoder
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return {"mmdit": of_network, **counts}


def _recipe_name(source: Source) -> str:
    return str(Run(source.folder).config().get("name", source.folder.name))
