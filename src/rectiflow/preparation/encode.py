"""Records through the encoders: one shard of an encoded store, in memory.

A shard is a pure function of the source, the encoders, its range and the batch size, so an
interrupted preparation goes on with the next shard, and shards could be made on several machines.
"""

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rectiflow.data.manifest import LATENT_DTYPES, SAMPLE_ARRAYS, ArraySpec, EncoderStamp
from rectiflow.data.picture_source import as_images
from rectiflow.data.records import BadRecord, Loaded, Quarantined, Record, RecordSource
from rectiflow.data.store import caption_column, text_column

STATES = ("clip_l", "clip_g", "t5", "pooled_l", "pooled_g")
CPU_PICTURES = 32
"""Pictures per call on a CPU, where larger batches leave the cache. Measured at 64 px on one core,
with channels last: 850 pictures/s in 32s, 450 in 128s; with channels first 360 and 320."""

STATE_DTYPE = "float16"
"""Half precision showed no degradation in the paper (arXiv 2403.03206, E.1)."""


@runtime_checkable
class PictureEncoder(Protocol):
    """What preparation needs of `encoders.autoencoder.Autoencoder`."""

    factor: Any
    latent_channels: Any
    shift: Any
    scale: Any

    def posterior(self, image: Tensor) -> Any: ...

    def identity(self) -> str: ...


@runtime_checkable
class CaptionEncoder(Protocol):
    """What preparation needs of the text encoders: an object with `STATES` as attributes."""

    def encode(self, prompts: list[str]) -> Any: ...

    def identity(self) -> str: ...


@dataclass(frozen=True)
class Encoders:
    """The encoders that make a store, and where they run.

    Args:
        autoencoder: Pictures to scaled latents, mean and log variance.
        text: Captions to states.
        device: Where the autoencoder's weights are; pictures are sent there.
    """

    autoencoder: PictureEncoder
    text: CaptionEncoder
    device: torch.device | str = "cpu"

    def stamp(self) -> EncoderStamp:
        """What the manifest keeps of them."""
        return EncoderStamp(
            autoencoder=self.autoencoder.identity(),
            text=self.text.identity(),
            shift_factor=float(self.autoencoder.shift),
            scaling_factor=float(self.autoencoder.scale),
            factor=int(self.autoencoder.factor),
        )

    def arrays(self, size_px: int) -> dict[str, ArraySpec]:
        """Shapes and types of what they make of pictures of this side.

        Raises:
            ValueError: If the side is not a multiple of the autoencoder's factor.
        """
        factor = int(self.autoencoder.factor)
        if size_px < factor or size_px % factor:
            raise ValueError(f"size_px must be a multiple of {factor}, got {size_px}")
        side = size_px // factor
        shape = (int(self.autoencoder.latent_channels), side, side)
        latents = {name: ArraySpec(shape=shape, dtype=d) for name, d in LATENT_DTYPES.items()}
        states = self._encode_texts([""])
        shapes = {name: values.shape[1:] for name, values in states.items()}
        texts = {name: ArraySpec(shape=shape, dtype=STATE_DTYPE) for name, shape in shapes.items()}
        return {**latents, **texts}

    @torch.no_grad()
    def _encode_texts(self, captions: list[str]) -> dict[str, np.ndarray]:
        states = self.text.encode(captions)
        arrays = {name: getattr(states, name).to("cpu", torch.float16).numpy() for name in STATES}
        for name, values in arrays.items():
            bad = ~np.isfinite(values).reshape(len(captions), -1).all(axis=1)
            if bad.any():
                first = captions[int(np.flatnonzero(bad)[0])]
                raise ValueError(
                    f"text states must be finite in half precision, {name} of {first!r:.200} is "
                    "not; change that caption, or leave its picture out"
                )
        return arrays

    @torch.no_grad()
    def _encode_pictures(self, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        """`latent` and `log_variance` of each picture."""
        image = as_images(pictures).to(self.device).contiguous(memory_format=torch.channels_last)
        on_cpu = torch.device(self.device).type == "cpu"
        parts = image.split(CPU_PICTURES if on_cpu else len(image))
        found = [self.autoencoder.posterior(part) for part in parts]
        mean = torch.cat([each.mean for each in found]).float()
        log_variance = torch.cat([each.log_variance for each in found]).half()
        return {"latent": mean.cpu().numpy(), "log_variance": log_variance.cpu().numpy()}


@dataclass
class EncodedShard:
    """Columns of the two files of a shard, and what was left out."""

    samples: dict[str, Any]
    texts: dict[str, Any]
    quarantined: list[Quarantined]
    num_enlarged: int
    num_cut: int


@dataclass
class _Texts:
    """Distinct captions of a shard, in the order of their first use; encoded in full batches."""

    encoders: Encoders
    batch_size: int
    rows: dict[str, int] = field(default_factory=dict)
    parts: list[dict[str, np.ndarray]] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    num_cut: int = 0

    def row(self, caption: str) -> int:
        if caption not in self.rows:
            self.rows[caption] = len(self.rows)
            self.pending.append(caption)
            if len(self.pending) == self.batch_size:
                self.flush()
        return self.rows[caption]

    def flush(self) -> None:
        if self.pending:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.parts.append(self.encoders._encode_texts(self.pending))
            for warning in caught:
                self._count(warning.message)
            self.pending = []

    def _count(self, warning: Warning | str) -> None:
        """Count captions that were cut, rather than warn a thousand times; pass on the rest."""
        num = getattr(warning, "num_prompts", None)
        if num is None:
            warnings.warn(warning, stacklevel=2)
        else:
            self.num_cut += num


def encode_shard(
    source: RecordSource,
    indices: range,
    encoders: Encoders,
    arrays: Mapping[str, ArraySpec],
    *,
    batch_size: int,
    threads: Executor,
    on_batch: Callable[[int], None],
) -> EncodedShard:
    """Encode the records of `source` at `indices`; bad ones are quarantined.

    Args:
        source: Where the records are.
        indices: Which of them.
        encoders: What encodes them.
        arrays: Shapes and types, from `encoders.arrays`.
        batch_size: Pictures, and captions, per call of an encoder.
        threads: Load pictures side by side.
        on_batch: Called with the number of records tried in each batch.
    """
    texts = _Texts(encoders, batch_size)
    columns: dict[str, list[Any]] = {"id": []}
    for name in source.caption_names:
        columns |= {caption_column(name): [], text_column(name): []}
    latents = {n: [np.empty((0, *arrays[n].shape), arrays[n].dtype)] for n in SAMPLE_ARRAYS}
    quarantined: list[Quarantined] = []
    num_enlarged = 0
    for first in range(indices.start, indices.stop, batch_size):
        batch = range(first, min(first + batch_size, indices.stop))
        tried = list(threads.map(partial(_load, source), batch))
        quarantined += [found for found in tried if isinstance(found, Quarantined)]
        loaded = [found for found in tried if not isinstance(found, Quarantined)]
        if loaded:
            encoded = encoders._encode_pictures([picture.image for _, picture in loaded])
            is_good = _finite_rows(encoded)
            for name, values in encoded.items():
                latents[name].append(values[is_good])
            for (record, picture), good in zip(loaded, is_good, strict=True):
                if not good:
                    quarantined.append(Quarantined(record.id, "latent is not finite"))
                    continue
                _append(columns, record, texts)
                num_enlarged += picture.is_enlarged
        on_batch(len(batch))
    texts.flush()
    samples = {name: _column(name, values) for name, values in columns.items()}
    samples |= {name: np.concatenate(parts) for name, parts in latents.items()}
    columns = _text_columns(texts, arrays)
    return EncodedShard(samples, columns, quarantined, num_enlarged, texts.num_cut)


def _load(source: RecordSource, index: int) -> tuple[Record, Loaded] | Quarantined:
    try:
        record = source.record(index)
        return record, record.load()
    except BadRecord as error:
        return error.quarantined


def _finite_rows(encoded: Mapping[str, np.ndarray]) -> np.ndarray:
    finite = [np.isfinite(v).reshape(len(v), -1).all(axis=1) for v in encoded.values()]
    return np.logical_and.reduce(finite)


def _append(columns: dict[str, list[Any]], record: Record, texts: _Texts) -> None:
    columns["id"].append(record.id)
    for name, caption in record.captions.items():
        columns[caption_column(name)].append(caption)
        columns[text_column(name)].append(texts.row(caption))


def _column(name: str, values: list[Any]) -> Any:
    return np.asarray(values, np.int32) if name.startswith(text_column("")) else values


def _text_columns(texts: _Texts, arrays: Mapping[str, ArraySpec]) -> dict[str, Any]:
    columns: dict[str, Any] = {"caption": list(texts.rows)}
    for name in STATES:
        parts = [part[name] for part in texts.parts]
        empty = np.empty((0, *arrays[name].shape), arrays[name].dtype)
        columns[name] = np.concatenate([empty, *parts])
    return columns
