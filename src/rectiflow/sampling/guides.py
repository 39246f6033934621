"""Weaker models that lead another away from their own mistakes (autoguidance)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rectiflow.checkpoints import group_checksum, is_checkpoint
from rectiflow.encoders.released.text import ReleasedText
from rectiflow.interop.checkpoint import open_checkpoint
from rectiflow.runs import Run
from rectiflow.sampling.guiding import Guide
from rectiflow.sampling.load import (
    averaged_weights,
    load,
    newest_checkpoint,
    read_weights,
    with_weights,
)
from rectiflow.sampling.pipeline import Pipeline
from rectiflow.sampling.released import fingerprint, weight_files
from rectiflow.sampling.sources import find_source
from rectiflow.sealing import MANIFEST, sha256


@dataclass(frozen=True)
class GuideSource:
    """Where a weaker model lies.

    Args:
        kind: "run", "bundle", "checkpoint" (one of a run's), or "weights": those of a network in
            safetensors.
        path: Its folder or file.
    """

    kind: str
    path: Path


def find_guide(name_or_path: str) -> GuideSource:
    """A packaged bundle by name, a run, a bundle, a run's checkpoint, or a safetensors file.

    Raises:
        FileNotFoundError: If there is none.
    """
    path = Path(name_or_path)
    if is_checkpoint(path):
        return GuideSource("checkpoint", path)
    if path.is_file() or (path / "model_index.json").is_file():
        return GuideSource("weights", path)
    source = find_source(name_or_path)
    return GuideSource(source.kind, source.folder)


def load_guide(source: GuideSource, pipeline: Pipeline) -> Guide:
    """Read a weaker model for the network of a pipeline.

    A checkpoint and weights in safetensors are those of a network of the same shape and
    formulation; beside a released model, weights are a file or folder of a released model.

    Raises:
        DataError: If a file is damaged, or the weights do not fit.
        ValueError: If a run or a bundle was trained with other encoders.
    """
    if source.kind in ("run", "bundle"):
        weaker = load(source.path, precision=pipeline.precision)
        _refuse_other_encoders(weaker, pipeline, source.path)
        return Guide(weaker.network, weaker.formulation, _identity(source))
    network: Any = pipeline.network
    if source.kind == "checkpoint":
        weaker = with_weights(network.config, averaged_weights(source.path), source.path)
        return Guide(weaker, pipeline.formulation, _identity(source))
    if isinstance(pipeline.text, ReleasedText):
        opened = open_checkpoint(source.path)
        weaker = opened.load_network(next(network.parameters()).dtype)
        return Guide(weaker, pipeline.formulation, fingerprint(weight_files(opened)))
    weaker = with_weights(network.config, read_weights(source.path), source.path)
    return Guide(weaker, pipeline.formulation, sha256(source.path))


def _refuse_other_encoders(weaker: Pipeline, pipeline: Pipeline, path: Path) -> None:
    """Latents and text must mean the same to both; a bundle's may be rounded to half precision."""
    parts = [(model.autoencoder, *model.text.models) for model in (weaker, pipeline)]
    for theirs, ours in zip(*parts, strict=True):
        found, wanted = theirs.state_dict(), ours.state_dict()
        if found.keys() != wanted.keys() or not all(
            value.shape == wanted[name].shape
            and torch.allclose(value.float(), wanted[name].float().cpu(), rtol=0.01, atol=0.01)
            for name, value in found.items()
        ):
            raise ValueError(f"a guide must have the same encoders, and those of {path} differ")


def _identity(source: GuideSource) -> str:
    """SHA-256 over a checkpoint's averaged weights, or of a bundle's manifest, which lists all."""
    if source.kind == "run":
        return group_checksum(newest_checkpoint(Run(source.path)), "ema")
    if source.kind == "checkpoint":
        return group_checksum(source.path, "ema")
    return sha256(source.path / MANIFEST)
