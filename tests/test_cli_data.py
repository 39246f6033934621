"""`rectiflow data encode` and `data verify`, as their users meet them."""

import json

import pytest

from rectiflow.cli.main import main
from rectiflow.data.scene_records import SceneRecords
from rectiflow.data.store import Store
from rectiflow.sampling.load import load_encoders
from rectiflow.training.settings.data import EncodersSettings
from tests.preparation.test_prepare import contents

SMALL = ["--size-px", "32", "--records-per-shard", "4", "--device", "cpu", "--seed", "7"]


def answer(capsys, *command):
    code = main(["data", *command, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Ten scenes as a store, encoded whole and in two shares."""
    root = tmp_path_factory.mktemp("encoded")
    assert main(["data", "encode", "scenes:10", "--out", str(root / "whole"), *SMALL]) == 0
    return root


def test_shares_of_the_command_make_the_store_that_one_makes(encoded, capsys):
    out = encoded / "shares"
    command = ["encode", "scenes:10", "--out", str(out), *SMALL]
    code, facts = answer(capsys, *command, "--shard", "2/2")
    assert (code, facts["is_whole"]) == (0, False)
    assert not out.exists()
    code, facts = answer(capsys, *command, "--shard", "1/2")
    assert (code, facts["is_whole"], facts["num_records"], facts["num_shards"]) == (0, True, 10, 3)
    assert contents(out) == contents(encoded / "whole")
    assert facts["content_hash"] == Store.open(out).manifest.content_hash
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    code, again = answer(capsys, *command)
    assert (code, again) == (0, facts)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


def test_the_settings_of_the_command_are_those_of_the_store(encoded):
    manifest = Store.open(encoded / "whole").manifest
    assert manifest.parent == SceneRecords(7, 10, 32).description()
    assert manifest.size_px == 32
    assert [shard.num_records for shard in manifest.shards] == [4, 4, 2]
    autoencoder, text = load_encoders({"source": EncodersSettings().source})
    assert manifest.encoders.autoencoder == autoencoder.identity()
    assert manifest.encoders.text == text.identity()


def test_verify_names_the_damaged_file_and_ends_with_2(encoded, capsys):
    store = encoded / "whole"
    assert main(["data", "verify", str(store)]) == 0
    assert "10 records in 7 files, all whole" in capsys.readouterr().out
    file = store / "samples" / "00001.arrow"
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert main(["data", "verify", str(store)]) == 2
    told = capsys.readouterr()
    assert "samples/00001.arrow is damaged: its checksum does not fit" in told.out
    assert told.err.strip().endswith(f"1 of 7 files of {store} are damaged")
    code, facts = answer(capsys, "verify", str(store))
    assert (code, facts["is_whole"]) == (2, False)
    assert [entry["file"] for entry in facts["damaged"]] == ["samples/00001.arrow"]
    file.write_bytes(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scenes:10", "--shard", "3/2"], "a share is i/n with 1 <= i <= n, got 3/2"),
        (["scenes:x"], "scenes are asked for as scenes or scenes:N, got 'scenes:x'"),
        (["scenes:0"], "num_scenes must be >= 1, got 0"),
        (["no/such"], "no such folder of pictures: no/such"),
        (["scenes:2", "--set", "encoders.sauce=x"], "did you mean encoders.source?"),
        (["scenes:2", "--size-px", "20"], "size_px must be a positive multiple of 8, got 20"),
        (["scenes:2", "--set", "batch_size=0"], "batch_size must be >= 1, got 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    out = tmp_path / "store"
    assert main(["data", "encode", *arguments, "--out", str(out)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert list(tmp_path.iterdir()) == []
