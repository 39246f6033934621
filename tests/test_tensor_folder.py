"""Tensors come back from a folder as they went, whatever they look like, whoever wrote them."""

import pytest
import torch
from safetensors.torch import safe_open

from rectiflow.errors import DataError
from rectiflow.tensor_folder import Snapshot, entries, own_file, read, read_into, write

TENSORS = {
    "plain": torch.arange(12.0).view(3, 4),
    "transposed": torch.arange(12.0).view(3, 4).t(),
    "part.of/more": torch.arange(12.0)[3:5],
    "scalar": torch.tensor(3.25),
    "count": torch.tensor([2**40, -1]),
    "half": torch.tensor([1.5, float("inf")], dtype=torch.bfloat16),
    "nothing": torch.zeros(0, 3),
}


@pytest.mark.parametrize("is_copied", [True, False])
def test_tensors_come_back_in_value_shape_and_type(tmp_path, is_copied):
    write(tmp_path / "group", Snapshot(TENSORS, is_copied))
    (file,) = (tmp_path / "group").iterdir()
    assert file == own_file(tmp_path / "group", 0)
    found = read(tmp_path / "group")
    assert found.keys() == entries(tmp_path / "group").keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)
    with safe_open(file, framework="pt") as opened:  # as any other program reads it
        assert torch.equal(opened.get_tensor("transposed"), TENSORS["transposed"])


def test_reading_fills_the_memory_it_is_given(tmp_path):
    write(tmp_path / "group", Snapshot(TENSORS))
    weight, memory = torch.nn.Parameter(torch.zeros(3, 4)), torch.zeros(8)
    place = weight.data_ptr()
    read_into(tmp_path / "group", {"plain": weight, "part.of/more": memory[2:4]})
    assert weight.data_ptr() == place
    assert torch.equal(weight.detach(), TENSORS["plain"])
    assert memory.tolist() == [0, 0, 3, 4, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"Missing key .*unknown"):
        read_into(tmp_path / "group", {"unknown": memory})


def test_processes_share_what_all_of_them_hold(tmp_path):
    """Four write one after the other here; each tensor falls to one, the bytes evenly to all."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 400, (40,), generator=generator).tolist()
    tensors = {f"{k}": torch.rand(size, generator=generator) for k, size in enumerate(sizes)}
    parts = [Snapshot(tensors, rank=rank, num=4)._parts for rank in range(4)]
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(tensors)
    loads = [sum(values.nbytes for values in part.values()) for part in parts]
    assert max(loads) - min(loads) < 0.1 * max(loads)


def test_a_file_that_is_cut_is_no_folder_of_tensors(tmp_path):
    write(tmp_path / "group", Snapshot(TENSORS))
    file = own_file(tmp_path / "group", 0)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="group is damaged"):
        read(tmp_path / "group")


@pytest.mark.gpu
def test_copies_of_what_is_on_a_gpu_are_of_when_they_were_taken(tmp_path):
    weight = torch.arange(1e7, device="cuda")
    snapshot = Snapshot({"weight": weight}, is_copied=True)
    weight.zero_()
    write(tmp_path / "group", snapshot)
    assert torch.equal(read(tmp_path / "group")["weight"], torch.arange(1e7))
    read_into(tmp_path / "group", {"weight": weight})
    assert torch.equal(weight.cpu(), torch.arange(1e7))
