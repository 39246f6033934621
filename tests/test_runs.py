"""Small files of a run are replaced as a whole or not at all."""

import pytest

from rectiflow.errors import DataError
from rectiflow.runs import Run, read_json, replacing, write_json


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
