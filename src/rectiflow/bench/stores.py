"""Encoded stores of random numbers: what reading one costs does not depend on what it says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow.data.manifest import (
    SAMPLE_ARRAYS,
    ArraySpec,
    EncoderStamp,
    FileEntry,
    Manifest,
    ShardEntry,
    json_hash,
)
from rectiflow.data.shards import write_columns
from rectiflow.data.store import caption_column, text_column
from rectiflow.sealing import sha256

SIZE_PX, FACTOR = 256, 8
CAPTIONS = ("alt", "synthetic")

SD3 = {
    "latent": ArraySpec(shape=(16, 32, 32), dtype="float32"),
    "log_variance": ArraySpec(shape=(16, 32, 32), dtype="float16"),
    "clip_l": ArraySpec(shape=(77, 768), dtype="float16"),
    "clip_g": ArraySpec(shape=(77, 1280), dtype="float16"),
    "t5": ArraySpec(shape=(77, 4096), dtype="float16"),
    "pooled_l": ArraySpec(shape=(768,), dtype="float16"),
    "pooled_g": ArraySpec(shape=(1280,), dtype="float16"),
}
"""A sample of 256 px with the text states of SD3 (arXiv 2403.03206, Table 7)."""


def random_store(
    folder: Path, arrays: Mapping[str, ArraySpec], num_records: int, records_per_shard: int
) -> None:
    """Write a store whose records, `record-0` on, have two captions each, all of them different.

    Numbers lie in [0, 1); a folder that exists is added to.
    """
    generator = np.random.Generator(np.random.Philox(0))
    shards = []
    for number, first in enumerate(range(0, num_records, records_per_shard)):
        last = min(first + records_per_shard, num_records)
        samples = _samples(generator, arrays, first, last)
        texts = _texts(generator, arrays, first, last)
        shards.append(
            ShardEntry(
                first=first,
                last=last,
                num_records=last - first,
                num_texts=len(CAPTIONS) * (last - first),
                num_enlarged=0,
                num_cut=0,
                samples=_write(folder, f"samples/{number:05d}.arrow", samples),
                texts=_write(folder, f"texts/{number:05d}.arrow", texts),
            )
        )
    parent = {"kind": "random", "num": num_records}
    stamp = EncoderStamp(
        autoencoder="", text="", shift_factor=0.0, scaling_factor=1.0, factor=FACTOR
    )
    Manifest(
        parent=parent,
        parent_hash=json_hash(parent),
        encoders=stamp,
        size_px=SIZE_PX,
        captions=CAPTIONS,
        arrays=arrays,
        shards=tuple(shards),
        quarantine={},
    ).write(folder)


def _samples(
    generator: np.random.Generator, arrays: Mapping[str, ArraySpec], first: int, last: int
) -> dict[str, Any]:
    columns: dict[str, Any] = {"id": [f"record-{index}" for index in range(first, last)]}
    for place, name in enumerate(CAPTIONS):
        columns[caption_column(name)] = [f"{name} {index}" for index in range(first, last)]
        rows = np.arange(last - first, dtype=np.int32) * len(CAPTIONS) + place
        columns[text_column(name)] = rows
    drawn = {name: _draw(generator, arrays[name], last - first) for name in SAMPLE_ARRAYS}
    return columns | drawn


def _texts(
    generator: np.random.Generator, arrays: Mapping[str, ArraySpec], first: int, last: int
) -> dict[str, Any]:
    texts = [f"{name} {index}" for index in range(first, last) for name in CAPTIONS]
    states = {name: spec for name, spec in arrays.items() if name not in SAMPLE_ARRAYS}
    drawn = {name: _draw(generator, spec, len(texts)) for name, spec in states.items()}
    return {"caption": texts} | drawn


def _draw(generator: np.random.Generator, spec: ArraySpec, num: int) -> np.ndarray:
    if spec.dtype == "float32":
        return generator.random((num, *spec.shape), dtype=np.float32)
    # Bits of the half floats from 0 up to 1: many times as fast as to draw and round.
    return generator.integers(0, 0x3C00, (num, *spec.shape), np.uint16).view(np.float16)


def _write(folder: Path, path: str, columns: Mapping[str, Any]) -> FileEntry:
    write_columns(folder / path, columns)
    size = (folder / path).stat().st_size
    return FileEntry(path=path, num_bytes=size, sha256=sha256(folder / path))
