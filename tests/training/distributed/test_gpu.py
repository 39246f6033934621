"""A model that is split over one device: all that one GPU can show of the exchanges by NCCL."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from rectiflow.training.ranks import ALONE, Ranks
from tests.training.distributed.jobs import free_port, training
from tests.training.tiny import tiny_settings


@pytest.mark.parametrize(
    ("device", "backend"),
    [
        pytest.param("cuda", "nccl", marks=pytest.mark.gpu),
        pytest.param("cpu", "gloo", marks=pytest.mark.slow),
    ],
)
def test_one_device_that_holds_all_shards_trains_as_one_process_does(tmp_path, device, backend):
    settings = tiny_settings(optimizer="adamw", device=device)
    expected = training(ALONE, None, tmp_path / "alone", settings)
    place = f"tcp://127.0.0.1:{free_port()}"
    identity = torch.device("cuda", 0) if device == "cuda" else None
    dist.init_process_group(backend, place, rank=0, world_size=1, device_id=identity)
    mesh = init_device_mesh(device, (1,), mesh_dim_names=("shard",))
    try:
        found = training(Ranks(mesh=mesh), None, tmp_path / "split", settings)
    finally:
        dist.destroy_process_group()
    assert list(found["losses"]) == list(range(1, 13))
    for step, loss in expected["losses"].items():
        assert found["losses"][step] == pytest.approx(loss, rel=1e-5)
    for name in ("val_loss", "val_loss_ema"):
        assert found["metrics"][name] == pytest.approx(expected["metrics"][name], rel=1e-5)
