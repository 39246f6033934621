import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rectiflow.errors import DataError
from rectiflow.evaluation.layout import (
    read_folder,
    read_lines,
    read_picture,
    write_lines,
    write_picture,
)

METADATA = {"tag": "colors", "include": [{"shape": "circle", "count": 1}], "prompt": "a circle"}


@pytest.fixture
def folder(tmp_path):
    for index in range(2):
        for sample in range(2):
            picture = np.full((8, 8, 3), 40 * index + sample, np.uint8)
            facts = {"prompt": "a circle", "seed": sample}
            write_picture(tmp_path, index, sample, METADATA, picture, facts)
    return tmp_path


def test_written_folders_are_read_back(folder):
    found = read_folder(folder)
    assert [metadata for metadata, _ in found] == [METADATA, METADATA]
    names = [file.relative_to(folder).as_posix() for _, files in found for file in files]
    assert names == [f"0000{i}/samples/000{k}.png" for i in range(2) for k in range(2)]
    assert read_picture(found[1][1][1]).tolist() == np.full((8, 8, 3), 41).tolist()
    assert Image.open(found[1][1][1]).text["seed"] == "1"
    line = (folder / "00001" / "metadata.jsonl").read_text()
    assert line.count("\n") == 1
    assert json.loads(line) == METADATA


def test_other_digits_and_other_files_are_as_in_geneval(folder):
    """GenEval's own generator writes 5 digits and a grid; both are accepted."""
    (folder / "00000" / "samples" / "0000.png").rename(folder / "00000" / "samples" / "00010.png")
    Image.new("RGB", (8, 8)).save(folder / "00000" / "grid.png")
    (folder / "notes").mkdir()
    _, files = read_folder(folder)[0]
    assert [file.name for file in files] == ["0001.png", "00010.png"]


def test_missing_and_damaged_parts_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of pictures"):
        read_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no prompt folders"):
        read_folder(tmp_path / "empty")
    (folder / "00001" / "metadata.jsonl").write_text("{broken\n")
    with pytest.raises(DataError, match=r"metadata.jsonl, line 1: not JSON"):
        read_folder(folder)
    (folder / "00001" / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"00001 has no metadata.jsonl"):
        read_folder(folder)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    file = tmp_path / "0000.png"
    file.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"0000.png: not a readable picture"):
        read_picture(file)


def test_lines_must_be_objects(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"a": 1}\n[1, 2]\n')
    with pytest.raises(DataError, match="line 2: expected an object"):
        read_lines(file)


def test_blank_lines_are_skipped_and_other_marks_do_not_end_a_line(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes('{"a": "one\u2028line"}\r\n\n{"a": 2}\n\n'.encode())
    assert read_lines(file) == [{"a": "one\u2028line"}, {"a": 2}]
    file.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match=r"prompts\.jsonl must be UTF-8 text"):
        read_lines(file)


def test_a_full_disk_leaves_the_old_lines(tmp_path, monkeypatch):
    file = tmp_path / "results.jsonl"
    write_lines(file, [{"a": 1}])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        write_lines(file, [{"a": 2}])
    assert read_lines(file) == [{"a": 1}]
