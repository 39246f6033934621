"""A store while it is being made: a neighbour folder that becomes the store when it is whole.

STORE.partial/plan.json             what is being made; another plan means starting over
STORE.partial/progress/00000.json   a finished shard and its quarantined records
STORE.partial/samples, texts        as in the store
STORE.partial.lock                  see `claims`
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rectiflow.data.manifest import MANIFEST, FileEntry, Manifest, ShardEntry, shard_from_json
from rectiflow.data.records import Quarantined
from rectiflow.data.shards import write_columns
from rectiflow.data.store import QUARANTINE
from rectiflow.errors import FULL_DISK, DiskFullError
from rectiflow.preparation.encode import EncodedShard
from rectiflow.runs import read_json, sync, write_bytes, write_json
from rectiflow.sealing import sha256

_PLAN = "plan.json"


class StoreWriter:
    """Writes shards beside `folder`, where other workers may write other shards.

    Attributes:
        partial: Where the shards are until the store is whole.
        done: Finished shards found or written, with what each left out, by number.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial = partial_folder(folder)
        self.done: dict[int, tuple[ShardEntry, list[Quarantined]]] = {}

    def has_plan(self, plan: Mapping[str, Any]) -> bool:
        """Whether what lies here is of this plan."""
        return self.is_open and read_json(self.partial / _PLAN) == plan

    def start(self, plan: Mapping[str, Any]) -> None:
        """Begin, with nothing; what another plan left is removed."""
        if self.partial.exists():
            shutil.rmtree(self.partial)
        for name in ("samples", "texts", "progress"):
            (self.partial / name).mkdir(parents=True)
        write_json(self.partial / _PLAN, plan)

    @property
    def is_open(self) -> bool:
        """Whether shards may still be written: nobody has published or removed the folder."""
        return (self.partial / _PLAN).is_file()

    @property
    def num_bytes(self) -> int:
        """Size of the finished shards."""
        shards = [entry for entry, _ in self.done.values()]
        return sum(shard.samples.num_bytes + shard.texts.num_bytes for shard in shards)

    @property
    def num_finished(self) -> int:
        """Shards that are finished, also those by other workers that were never asked for."""
        return sum(1 for _ in (self.partial / "progress").glob("[0-9]*.json"))

    def has(self, number: int) -> bool:
        """Whether a shard is finished, by whichever worker."""
        if number not in self.done:
            note = self.partial / "progress" / f"{number:05d}.json"
            try:
                self._take(number, read_json(note))
            except FileNotFoundError:
                return False
        return number in self.done

    def write_shard(self, number: int, indices: range, shard: EncodedShard) -> None:
        """Write both files, then the note that says they are finished.

        Only for the worker that has claimed the shard.
        """
        for kind in ("samples", "texts"):
            for file in (self.partial / kind).glob(f".{number:05d}.arrow.*.partial"):
                file.unlink()  # cut short by a kill
        entry = ShardEntry(
            first=indices.start,
            last=indices.stop,
            num_records=len(shard.samples["id"]),
            num_texts=len(shard.texts["caption"]),
            num_enlarged=shard.num_enlarged,
            num_cut=shard.num_cut,
            samples=self._write(f"samples/{number:05d}.arrow", shard.samples),
            texts=self._write(f"texts/{number:05d}.arrow", shard.texts),
        )
        left_out = [dataclasses.asdict(record) for record in shard.quarantined]
        note = {"shard": dataclasses.asdict(entry), "quarantined": left_out}
        write_json(self.partial / "progress" / f"{number:05d}.json", note)
        self.done[number] = (entry, shard.quarantined)

    def finish(self, manifest: Manifest, quarantined: list[Quarantined]) -> None:
        """Write what remains, and give the folder its name; only alone, with every shard done."""
        for file in self.partial.rglob("*.partial"):  # of workers killed while others went on
            file.unlink()
        lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in quarantined]
        write_bytes(self.partial / QUARANTINE, "".join(lines).encode())
        left_out = self._entry(QUARANTINE)
        dataclasses.replace(manifest, left_out=left_out).write(self.partial)
        publish(self.folder)

    def discard(self) -> None:
        """Remove everything written."""
        shutil.rmtree(self.partial)

    def _write(self, path: str, columns: Mapping[str, Any]) -> FileEntry:
        write_columns(self.partial / path, columns)
        return self._entry(path)

    def _entry(self, path: str) -> FileEntry:
        file = self.partial / path
        return FileEntry(path=path, num_bytes=file.stat().st_size, sha256=sha256(file))

    def _take(self, number: int, note: Mapping[str, Any]) -> None:
        entry = shard_from_json(note["shard"])
        for file in (entry.samples, entry.texts):
            path = self.partial / file.path
            if not path.is_file() or path.stat().st_size != file.num_bytes:
                return  # made again
        self.done[number] = (entry, [Quarantined(**record) for record in note["quarantined"]])


def partial_folder(folder: Path) -> Path:
    """Where the store `folder` is while it is being made."""
    return folder.with_name(f"{folder.name}.partial")


def publish(folder: Path) -> None:
    """Give a partial folder that has its manifest its name; a kill before leaves it to be done.

    The plan goes first: a worker that then misses a note of progress sees that all are done.
    """
    partial = partial_folder(folder)
    (partial / _PLAN).unlink(missing_ok=True)
    shutil.rmtree(partial / "progress", ignore_errors=True)
    sync(partial)
    if folder.exists():
        folder.rmdir()  # it is empty, and not every system renames onto a folder
    os.replace(partial, folder)
    sync(folder.parent)


def is_ready_to_publish(folder: Path) -> bool:
    """Whether the last preparation was killed between its manifest and its last rename."""
    return (partial_folder(folder) / MANIFEST).is_file() and is_free(folder)


def is_free(folder: Path) -> bool:
    """Whether a store may take this name: nothing is there, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextmanager
def telling_of_full_disk(folder: Path) -> Iterator[None]:
    """Turn a full disk inside into a `DiskFullError`; finished shards stay for the next attempt."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise DiskFullError(
            f"the disk of {folder.parent} is full; what was encoded so far waits in "
            f"{partial_folder(folder)}: make room and repeat, or remove it"
        ) from error
