import csv
import errno
import json
import os
import shutil
from collections import Counter

import pytest
from PIL import Image

from rectiflow.data.folder import FolderRecords
from rectiflow.errors import DataError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    return root


def picture(folder, name, caption=None, color=(200, 30, 30)):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), color).save(file)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return file


def captions(records: FolderRecords) -> dict[str, str]:
    found = [records.record(index) for index in range(len(records))]
    return {record.id: record.captions["caption"] for record in found}


def reasons(records: FolderRecords) -> dict[str, str]:
    return {entry.id: entry.reason for entry in records.quarantined}


def test_sidecars_give_captions_in_the_order_of_names(folder):
    picture(folder, "b.png", "a dog\n")
    picture(folder, "a.jpg", "\ufeffein  Hünd\nam Meer ")  # with a byte order mark
    picture(folder, "deep/er/c.webp", "a cat", color=(1, 2, 3))
    records = FolderRecords(folder, 16)
    assert list(captions(records).items()) == [
        ("a.jpg", "ein Hünd am Meer"),
        ("b.png", "a dog"),
        ("deep/er/c.webp", "a cat"),
    ]
    assert records.record(1).load().image[8, 8].tolist() == [200, 30, 30]
    assert not records.quarantined


def test_metadata_files_of_both_kinds_say_the_same(folder):
    rows = [("a.png", 'a "quoted", word'), ("sub/b.png", "two\nlines")]
    for name, _ in rows:
        picture(folder, name)
    expected = {"a.png": 'a "quoted", word', "sub/b.png": "two lines"}
    for column in ("text", "caption"):
        (folder / "metadata.jsonl").write_text(
            "".join(json.dumps({"file_name": n, column: t, "other": 1}) + "\n" for n, t in rows)
        )
        assert captions(FolderRecords(folder, 16)) == expected
    (folder / "metadata.jsonl").unlink()
    with (folder / "metadata.csv").open("w", newline="") as sink:
        csv.writer(sink).writerows([("file_name", "text"), *rows])
    assert captions(FolderRecords(folder, 16)) == expected


def test_metadata_reads_as_datasets_reads_it(folder, tmp_path):
    from datasets import load_dataset

    for name in ("a.png", "sub/b.png"):
        picture(folder, name)
    rows = [{"file_name": "a.png", "text": "one"}, {"file_name": "sub/b.png", "text": "two"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(theirs["text"]) == sorted(captions(FolderRecords(folder, 16)).values())


def test_metadata_in_a_subfolder_is_relative_to_it_and_wins_over_sidecars(folder):
    picture(folder, "a.png", "from a sidecar")
    picture(folder, "sub/a.png", "from the other sidecar")
    (folder / "sub" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from a row"}\n')
    expected = {"a.png": "from a sidecar", "sub/a.png": "from a row"}
    assert captions(FolderRecords(folder, 16)) == expected


def test_whatever_is_left_out_has_its_reason(folder):
    picture(folder, "good.png", "a good one")
    picture(folder, "bare.png")
    picture(folder, "blank.png", " \n\t")
    picture(folder, "twin.jpg", "who am I")
    picture(folder, "twin.png", "who am I")
    picture(folder, "latin.png").with_suffix(".txt").write_bytes("Hünd".encode("latin-1"))
    picture(folder, "long.png", "a" * 70_000)
    picture(folder, "gone.png").with_suffix(".txt").symlink_to(folder / "nowhere.txt")
    (folder / "phone.heic").write_bytes(b"?")
    (folder / ".hidden.png").write_bytes(b"?")
    (folder / "readme.md").write_text("not a picture")
    records = FolderRecords(folder, 16)
    assert captions(records) == {"good.png": "a good one", "twin.jpg": "who am I"}
    assert reasons(records) == {
        "bare.png": "no caption",
        "blank.png": "empty caption",
        "twin.png": "duplicate name",
        "latin.png": "caption is not UTF-8",
        "long.png": "oversized caption",
        "gone.png": "unreadable caption",
        "phone.heic": "unsupported format",
    }


def test_a_folder_that_cannot_be_read_is_counted(folder, monkeypatch):
    picture(folder, "good.png", "a good one")
    picture(folder, "locked/lost.png", "out of reach")

    def scandir(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    original = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)  # root may read every folder
    records = FolderRecords(folder, 16)
    assert captions(records) == {"good.png": "a good one"}
    assert reasons(records) == {"locked": "unreadable folder"}


def test_every_faulty_row_of_the_metadata_is_counted(folder):
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
        picture(folder, name)
    picture(folder.parent, "outside.png")
    (folder / "notes.txt").write_text("no picture")
    lines = [
        '{"file_name": "a.png", "text": "kept"}',
        '{"file_name": "a.png", "text": "said twice"}',
        '{"file_name": "b.png", "text": ""}',
        '{"file_name": "c.png", "text": ["a", "b"]}',
        '{"file_name": "d.png"}',
        '{"file_name": "e.png", "text": "\\ud800"}',
        '{"file_name": "missing.png", "text": "?"}',
        '{"file_name": "notes.txt", "text": "?"}',
        '{"file_name": "../outside.png", "text": "?"}',
        f'{{"file_name": "{folder.parent}/outside.png", "text": "?"}}',
        '{"text": "of nothing"}',
        "{not json",
        "",
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    records = FolderRecords(folder, 16)
    assert captions(records) == {"a.png": "kept"}
    assert reasons(records) == {
        "metadata.jsonl line 2": "duplicate name",
        "b.png": "empty caption",
        "c.png": "caption is not text",
        "d.png": "no caption",
        "e.png": "name or caption is not Unicode",
        "missing.png": "no such picture",
        "notes.txt": "unsupported format",
        "metadata.jsonl line 9": "file_name outside the folder",
        "metadata.jsonl line 10": "file_name outside the folder",
        "metadata.jsonl line 11": "metadata row without file_name",
        "metadata.jsonl line 12": "metadata row without file_name",
    }
    assert max(Counter(entry.id for entry in records.quarantined).values()) == 1


def test_a_file_name_that_is_no_unicode_is_left_out(folder):
    picture(folder, "good.png", "a good one")
    os.rename(picture(folder, "b.png"), os.fsencode(folder) + b"/\xff.png")
    (folder / "metadata.csv").write_bytes(b"file_name,text\n")
    with open(os.fsencode(folder) + b"/\xff.txt", "w") as sink:
        sink.write("a bad one")
    records = FolderRecords(folder, 16)
    assert captions(records) == {"good.png": "a good one"}
    assert list(reasons(records).values()) == ["name or caption is not Unicode"]


def test_description_follows_content_and_not_the_place(folder, tmp_path):
    picture(folder, "a.png", "one")
    picture(folder, "b.png", "two")
    before = FolderRecords(folder, 16).description()
    shutil.copytree(folder, tmp_path / "moved")
    assert FolderRecords(tmp_path / "moved", 16).description() == before
    assert FolderRecords(folder, 24).description() != before
    (folder / "b.txt").write_text("too")
    after = FolderRecords(folder, 16).description()
    assert after != before
    picture(folder, "a.png", color=(0, 0, 1))
    os.utime(folder / "a.png", ns=(1, 1))
    assert FolderRecords(folder, 16).description() != after


def test_a_folder_without_pictures_is_refused_in_one_line(folder):
    with pytest.raises(ValueError, match=r"holds no pictures; expected files ending in .*\.png"):
        FolderRecords(folder, 16)
    picture(folder, "a.png")
    picture(folder, "b.png")
    expected = r"can be used \(no caption: 2\); first, a.png: no a.txt and no metadata row"
    with pytest.raises(ValueError, match=expected) as caught:
        FolderRecords(folder, 16)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="no such folder of pictures"):
        FolderRecords(folder / "nowhere", 16)
    with pytest.raises(ValueError, match="is a file"):
        FolderRecords(picture(folder, "a.png"), 16)


def test_metadata_that_cannot_be_read_as_a_whole_is_refused(folder):
    picture(folder, "a.png")
    (folder / "metadata.csv").write_text("name,text\na.png,one\n")
    with pytest.raises(ValueError, match="needs a column file_name, found"):
        FolderRecords(folder, 16)
    (folder / "metadata.csv").write_bytes(b"file_name,text\na.png,\xff\n")
    with pytest.raises(DataError, match=r"metadata\.csv cannot be read as CSV"):
        FolderRecords(folder, 16)
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"has both metadata.jsonl and metadata.csv; keep one"):
        FolderRecords(folder, 16)
