"""Files of ours carry a checksum that sees every bit; files of others have none."""

import json
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rectiflow.errors import DataError
from rectiflow.interop.tensor_file import TensorFile, write_tensor_file

TENSORS = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    facts = {"layout": "stability", "recipe": {"note": 'a "quoted" \\ line\nünd'}}
    write_tensor_file(path, TENSORS, facts, {"license": "of others", "format": "np"})
    return path


def test_facts_metadata_and_tensors_come_back(file):
    opened = TensorFile(file)
    assert opened.facts()["recipe"]["note"] == 'a "quoted" \\ line\nünd'
    assert opened.metadata["license"] == "of others"
    assert opened.metadata["format"] == "pt"
    for name, value in TENSORS.items():
        assert torch.equal(opened.read(name), value)
    assert opened.tensors["a"].shape == (3, 2)
    assert opened.tensors["b"].dtype == "BF16"
    assert load_file(file).keys() == TENSORS.keys()  # any reader of safetensors takes it


def test_the_file_may_be_read_by_whom_other_files_may(file, tmp_path):
    (tmp_path / "other").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing temporary


def test_a_flipped_bit_in_any_byte_of_the_header_is_seen(file, tmp_path):
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for position in range(header):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        assert_refused(tmp_path / "damaged.safetensors", damaged)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_and_any_cut_is_seen(file, data):
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    content[position // 8] ^= 1 << position % 8
    assert_refused(file.with_name("flipped"), content)
    assert_refused(file.with_name("cut"), file.read_bytes()[: position // 8])


def assert_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)):
        TensorFile(path).read("a")


def test_a_file_whose_checksum_was_taken_away_is_no_file_of_others(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"rectiflow": "{}"})
    with pytest.raises(DataError, match="differs from the checksum it carries"):
        TensorFile(path).read("a")


def test_facts_that_are_no_object_are_refused(tmp_path):
    for number, facts in enumerate(("[1]", "{")):
        path = tmp_path / f"{number}.safetensors"
        save_file({"a": torch.zeros(1)}, path, {"rectiflow": facts})
        with pytest.raises(DataError, match="rectiflow in its metadata is no"):
            TensorFile(path).facts()


def test_files_of_others_are_read_as_they_are(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.tensor([1.0, 2.0])}, path)
    opened = TensorFile(path)
    assert not opened.is_ours
    assert opened.facts() == {}
    assert opened.read("a").tolist() == [1, 2]


def test_offsets_that_overlap_or_leave_the_file_are_refused(tmp_path):
    for name, offsets in (("overlap", [0, 4]), ("beyond", [4, 1 << 40]), ("turned", [8, 4])):
        header = {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": offsets},
        }
        text = json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(DataError, match="cannot be read as safetensors"):
            TensorFile(path)


def test_a_header_larger_than_any_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        TensorFile(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        TensorFile(tmp_path)
