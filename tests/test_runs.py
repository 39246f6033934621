"""Small files of a run are replaced as a whole or not at all."""

import os

import pytest

from rectiflow import runs
from rectiflow.errors import DataError
from rectiflow.runs import Run, read_json, replacing, replacing_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})

    def write_half():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


def test_damage_and_absence_are_told_apart(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        run.config()
    assert run.result() is None
    assert run.pace() is None
    assert run.metrics() == []
    for content in ("{", "[1]", "\x00"):
        run.result_path.write_text(content)
        with pytest.raises(DataError, match=r"result\.json is damaged"):
            run.result()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="run must be a folder"):
        Run(tmp_path / "run").create()


def test_a_folder_takes_its_name_when_every_byte_of_it_is_on_the_disk(tmp_path, monkeypatch):
    done, renamed = [], []
    monkeypatch.setattr(runs, "sync", lambda path: done.append(path.name))
    monkeypatch.setattr(os, "replace", lambda *names: renamed.append(list(done)))
    with replacing_folder(tmp_path / "export") as partial:
        (partial / "vae").mkdir()
        for name in ("weights", "vae/config"):
            (partial / name).write_bytes(b"1")
        assert not (tmp_path / "export").exists()
    assert sorted(renamed[0]) == sorted([partial.name, "vae", "weights", "config"])
    assert done[-1] == tmp_path.name


def test_a_folder_that_fails_is_not_there_and_leftovers_of_a_killed_one_go(tmp_path):
    leftover, other = tmp_path / ".export.1.partial", tmp_path / ".exported.1.partial"
    for folder in (leftover, other):
        folder.mkdir()
        (folder / "half").touch()

    def write_half():
        with replacing_folder(tmp_path / "export") as partial:
            (partial / "half").touch()
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_that_is_not_empty_is_not_replaced(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(OSError, match="not empty"), replacing_folder(tmp_path) as partial:
        (partial / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
