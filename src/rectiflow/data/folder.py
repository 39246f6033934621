"""A folder of pictures with captions, as records.

Captions come from `metadata.jsonl` or `metadata.csv` (columns `file_name` and `text`, or `caption`;
paths relative to that file, as `datasets`' imagefolder reads them) or else from a `.txt` file of
the picture's name. Nothing is dropped without a reason that is counted.
"""

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from rectiflow.data.pictures import MAX_PIXELS, SUFFIXES, load_square
from rectiflow.data.records import Quarantined, Record
from rectiflow.errors import DataError

METADATA: Final = ("metadata.jsonl", "metadata.csv")
CAPTION_COLUMNS: Final = ("text", "caption")  # the first that a row has is taken
MAX_CAPTION_BYTES: Final = 1 << 16
# Pictures that users have, but that cannot be read here: quarantined rather than overlooked.
FOREIGN_SUFFIXES: Final = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".eps", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd"}
    | {".raf", ".svg"}
)


class FolderRecords:
    """The captioned pictures of a folder and its subfolders, in the order of their names.

    Ids are paths relative to the folder, with forward slashes. Hidden ones are skipped.
    Where a picture has both a metadata row and a `.txt` file, the row wins.

    Args:
        path: The folder.
        size_px: Side to which pictures are cut and scaled.
        max_pixels: Pictures with more are quarantined undecoded.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no picture, or none that can be used.
        DataError: If a metadata file as a whole cannot be read.
    """

    caption_names = ("caption",)

    def __init__(self, path: Path | str, size_px: int, *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = Path(path)
        self.size_px = size_px
        self.max_pixels = max_pixels
        if not self.path.exists():
            raise FileNotFoundError(f"no such folder of pictures: {self.path}")
        if not self.path.is_dir():
            raise ValueError(f"expected a folder of pictures, {self.path} is a file")
        self.quarantined: list[Quarantined] = []
        self._listed = list(self._list())
        if not self._listed:
            raise ValueError(self._nothing_usable())

    def __len__(self) -> int:
        return len(self._listed)

    def record(self, index: int) -> Record:
        """Record `index`; its picture is decoded by `load`."""
        id, caption = self._listed[index]
        load = partial(load_square, self.path / id, id, self.size_px, self.max_pixels)
        return Record(id, {"caption": caption}, load)

    def description(self) -> Mapping[str, Any]:
        """Names, sizes, times of change and captions, hashed; not where the folder is."""
        digest = hashlib.sha256()
        for id, caption in self._listed:
            try:
                status = (self.path / id).stat()
                state = (status.st_size, status.st_mtime_ns)
            except OSError:
                state = None  # unreadable: quarantined when its turn comes
            digest.update(json.dumps([id, caption, state]).encode())
        return {
            "kind": "folder",
            "num_pictures": len(self),
            "size_px": self.size_px,
            "max_pixels": self.max_pixels,
            "files": digest.hexdigest(),
        }

    def content_hash(self) -> str:
        """SHA-256 of names, captions and bytes, which a copy of the folder shares."""
        digest = hashlib.sha256()
        for id, caption in self._listed:
            try:
                with (self.path / id).open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                content = None  # unreadable: quarantined when its turn comes
            digest.update(json.dumps([id, caption, content]).encode())
        return digest.hexdigest()

    def _list(self) -> Iterator[tuple[str, str]]:
        """(id, caption) of every picture that has one; the others go into quarantine."""
        pictures, metadata = self._walk()
        rows = {}
        for file in metadata:
            self._read_metadata(file, rows)
        owners: dict[str, str] = {}  # which picture took a .txt file
        for id in pictures:
            if PurePosixPath(id).suffix.lower() in FOREIGN_SUFFIXES:
                rows.pop(id, None)
                self._quarantine(id, "unsupported format", PurePosixPath(id).suffix)
                continue
            is_row = id in rows
            caption = rows.pop(id) if is_row else self._sidecar(id, owners)
            if caption is None:
                continue
            text = " ".join(caption.split())
            if not text:
                self._quarantine(id, "empty caption")
            elif not _is_unicode(id) or not _is_unicode(text):
                self._quarantine(id, "name or caption is not Unicode", ascii(id + ": " + text))
            else:
                yield id, text
        for id, caption in rows.items():
            if caption is not None and (self.path / id).is_file():
                self._quarantine(id, "unsupported format", _suffix(id))
            elif caption is not None:
                self._quarantine(id, "no such picture", "named in the metadata only")

    def _walk(self) -> tuple[list[str], list[Path]]:
        pictures, metadata = [], []
        for folder, folders, names in os.walk(self.path, onerror=self._quarantine_folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            here = Path(folder)
            found = [here / name for name in METADATA if name in names]
            if len(found) > 1:
                raise ValueError(f"{here} has both {' and '.join(METADATA)}; keep one")
            metadata += found
            for name in names:
                if not name.startswith(".") and _suffix(name) in SUFFIXES | FOREIGN_SUFFIXES:
                    pictures.append((here / name).relative_to(self.path).as_posix())
        return sorted(pictures), metadata

    def _quarantine_folder(self, error: OSError) -> None:
        folder = Path(error.filename).relative_to(self.path).as_posix()
        self._quarantine(folder, "unreadable folder", str(error))

    def _sidecar(self, id: str, owners: dict[str, str]) -> str | None:
        file = (self.path / id).with_suffix(".txt")
        stem = PurePosixPath(id).with_suffix("").as_posix()
        if not os.path.lexists(file):
            return self._quarantine(id, "no caption", f"no {file.name} and no metadata row")
        if stem in owners:
            return self._quarantine(id, "duplicate name", f"{file.name} belongs to {owners[stem]}")
        owners[stem] = id
        try:
            with file.open("rb") as source:
                content = source.read(MAX_CAPTION_BYTES + 1)
            if len(content) > MAX_CAPTION_BYTES:
                return self._quarantine(id, "oversized caption", f"> {MAX_CAPTION_BYTES} bytes")
            return content.decode("utf-8-sig")
        except OSError as error:
            return self._quarantine(id, "unreadable caption", str(error))
        except UnicodeDecodeError as error:
            return self._quarantine(id, "caption is not UTF-8", str(error))

    def _read_metadata(self, file: Path, rows: dict[str, str | None]) -> None:
        """Add the captions of one file to `rows`; None marks a fault already counted."""
        place = file.relative_to(self.path).as_posix()
        for line, row in _csv_rows(file) if file.suffix == ".csv" else _json_rows(file):
            where = f"{place} line {line}"
            name = row.get("file_name") if isinstance(row, Mapping) else None
            if not isinstance(name, str) or not name:
                self._quarantine(where, "metadata row without file_name", str(row)[:200])
                continue
            target = os.path.normpath(file.parent.relative_to(self.path) / name)
            id = Path(target).as_posix()
            if os.path.isabs(target) or id.split("/")[0] == "..":
                self._quarantine(where, "file_name outside the folder", name)
            elif id in rows:
                self._quarantine(where, "duplicate name", name)
            else:
                rows[id] = self._row_caption(row, id, where)

    def _row_caption(self, row: Mapping[str, Any], id: str, where: str) -> str | None:
        column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
        if column is None:
            return self._quarantine(
                id, "no caption", f"{where} has no {' or '.join(CAPTION_COLUMNS)}"
            )
        if not isinstance(row[column], str):
            return self._quarantine(id, "caption is not text", f"{where}: {row[column]!r}"[:200])
        return row[column]

    def _quarantine(self, id: str, reason: str, detail: str = "") -> None:
        self.quarantined.append(Quarantined(id, reason, detail))

    def _nothing_usable(self) -> str:
        if not self.quarantined:
            known = " ".join(sorted(SUFFIXES))
            return f"{self.path} holds no pictures; expected files ending in {known}"
        reasons = Counter(entry.reason for entry in self.quarantined)
        counts = ", ".join(f"{reason}: {num}" for reason, num in reasons.most_common())
        first = self.quarantined[0]
        example = f"{first.id}: {first.detail or first.reason}"
        return f"no picture in {self.path} can be used ({counts}); first, {example}"


def _json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as source:
        for line, content in enumerate(source, start=1):
            if content.strip():
                try:
                    yield line, json.loads(content.decode("utf-8-sig"))
                except ValueError:  # a row of bytes that are no JSON: counted by the caller
                    yield line, content


def _csv_rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as source:
            reader = csv.DictReader(source)
            if "file_name" not in (reader.fieldnames or ()):
                raise ValueError(f"{file} needs a column file_name, found {reader.fieldnames}")
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from error


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_unicode(text: str) -> bool:
    """False for the lone surrogates that undecodable file names and broken JSON escapes become."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
