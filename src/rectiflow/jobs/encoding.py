"""Encode a source once, for any number of runs: what `rectiflow data encode` calls."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectiflow.data.folder import FolderRecords
from rectiflow.data.manifest import MANIFEST
from rectiflow.data.named import named_records
from rectiflow.data.store import Store
from rectiflow.devices import resolve_device
from rectiflow.jobs.job import Progress
from rectiflow.preparation.encode import Encoders
from rectiflow.preparation.prepare import Batching, Share, encode_share, prepare_store, summary
from rectiflow.preparation.reconstruction import reconstruction_psnr, reconstruction_warning
from rectiflow.sampling.load import load_encoders
from rectiflow.training.settings.encoding import EncodingSettings

_log = logging.getLogger(__name__)


def run_encoding(
    name: str, folder: Path, settings: EncodingSettings, share: Share | None, progress: Progress
) -> Mapping[str, Any]:
    """Encode records into a store, alone or beside other workers.

    Args:
        name: As `named_records` takes it.
        folder: The store to be.
        settings: How.
        share: Make only these shards and wait for nobody; None makes whatever no other worker
            makes, and waits until the store is whole.
        progress: Told how far the work is.

    Returns:
        For a person or a machine: `message`, `is_whole`, and of a whole store its counts.

    Raises:
        ValueError: If there is nothing to encode, or `folder` holds something else.
        DataError: If `folder` holds this store, damaged.
        DiskFullError: If the disk is full, or will be.
    """
    source = named_records(name, size_px=settings.size_px, seed=settings.seed)
    device = resolve_device(settings.device)
    autoencoder, text = load_encoders(dataclasses.asdict(settings.encoders))
    encoders = Encoders(autoencoder.to(device), text.to(device), device)
    if isinstance(source, FolderRecords) and not (folder / MANIFEST).is_file():
        decibels = reconstruction_psnr(source, autoencoder, device=device)
        if warning := reconstruction_warning(decibels, name):
            _log.warning("%s", warning)
    batching = Batching(
        batch_size=settings.batch_size,
        records_per_shard=settings.records_per_shard,
        num_threads=settings.num_threads,
    )

    def report(done: int, total: int) -> None:
        progress("encoding", done, total, {})

    if share is None:
        store: Store | None = prepare_store(source, encoders, folder, batching, report)
    else:
        store = encode_share(source, encoders, folder, share, batching, report)
    if store is None:
        return {
            "is_whole": False,
            "message": f"this share is encoded; {folder} appears when the others are",
        }
    manifest = store.manifest
    return {
        "is_whole": True,
        "message": summary(store),
        "num_records": manifest.num_records,
        "num_quarantined": manifest.num_quarantined,
        "num_shards": len(manifest.shards),
        "num_bytes": manifest.num_bytes,
        "content_hash": manifest.content_hash,
    }
