"""Optimizers of DDP, FSDP2 and HSDP move weights and averages as those of one process do.

Every process is given the same whole gradient, so that nothing but the optimizers can differ.
"""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rectiflow.training.objectives.base import Objective, Terms
from rectiflow.training.optim import Optimizers
from rectiflow.training.ranks import ALONE, Ranks
from tests.training.tiny import tiny_settings

SETTINGS = tiny_settings(weight_decay=0.1, learning_rate=0.01, muon_learning_rate=0.02)
MESHES = {
    "ddp": lambda num: ((num,), ("replicate",)),
    "fsdp": lambda num: ((num,), ("shard",)),
    "hsdp": lambda num: ((num // 2, 2), ("replicate", "shard")),
}


class Block(nn.Module):
    """Heights that no number of processes divides, less than there are processes among them."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(10, 30)
        self.up, self.down = nn.Linear(10, 40), nn.Linear(40, 10)
        self.few = nn.Linear(10, 3)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(3, 10)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])


class GivenGradients(Objective):
    def __init__(self):
        torch.manual_seed(0)
        self.model = Model()

    def loss(self, batch, draws):
        return Terms(torch.zeros(1))

    def descend(self, step):
        """Give every parameter the gradient of this step."""
        generator = torch.Generator().manual_seed(step)
        for parameter in self.model.parameters():
            grad = torch.randn(parameter.shape, generator=generator)
            if isinstance(parameter, DTensor):
                grad = distribute_tensor(grad, parameter.device_mesh, parameter.placements)
            parameter.grad = grad


def whole(tensors):
    return {
        name: t.detach().full_tensor() if isinstance(t, DTensor) else t.detach().clone()
        for name, t in tensors.items()
    }


def trained(objective, ranks):
    """Norms of the gradients, weights and averages after some steps, and a gradient clipped."""
    optimizers = Optimizers(objective, SETTINGS, ranks)
    norms = []
    for step in range(3):
        objective.descend(step)
        norms.append(optimizers.clip(0).item())
        optimizers.step()
    named = dict(objective.model.named_parameters())
    weights, averages = whole(named), whole(optimizers.state())
    objective.descend(3)
    norms.append(optimizers.clip(0.5).item())
    return norms, weights, averages, whole({name: p.grad for name, p in named.items()})


def compare(kind, ranks):
    """Everything against a process alone; what Muon moves is the same bit for bit."""
    alone, objective = trained(GivenGradients(), ALONE), GivenGradients()
    if kind != "ddp":
        for block in objective.model.blocks:
            fully_shard(block, mesh=ranks.mesh)
        fully_shard(objective.model, mesh=ranks.mesh)
    found = trained(objective, ranks)
    assert found[0] == pytest.approx(alone[0], rel=1e-6)
    for ours, expected in zip(found[1:], alone[1:], strict=True):
        assert ours.keys() == expected.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7)
    matrices = objective.matrices()
    assert matrices["blocks.0.qkv.weight"] == 3
    for name in matrices:
        assert torch.equal(found[1][name], alone[1][name]), name
        momentum = f"{name}/momentum_buffer"
        assert torch.equal(found[2][momentum], alone[2][momentum]), name


def ranks_of(kind, rank, num):
    shape, names = MESHES[kind](num)
    return Ranks(rank, num, rank, init_device_mesh("cpu", shape, mesh_dim_names=names))


def process(rank, num, address):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=num)
    for kind in MESHES:
        compare(kind, ranks_of(kind, rank, num))
    dist.destroy_process_group()


@pytest.mark.slow
def test_four_processes_move_weights_as_one_does(tmp_path):
    mp.spawn(process, (4, f"file://{tmp_path}/meeting"), nprocs=4)


@pytest.fixture
def one_process_of_a_job():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process_of_a_job")
def test_sharded_weights_are_moved_as_whole_ones():
    compare("fsdp", ranks_of("fsdp", 0, 1))


@pytest.mark.usefixtures("one_process_of_a_job")
def test_the_average_of_a_sharded_parameter_is_sharded_alike():
    objective, ranks = GivenGradients(), ranks_of("fsdp", 0, 1)
    fully_shard(objective.model, mesh=ranks.mesh)
    optimizers = Optimizers(objective, SETTINGS, ranks)
    named = dict(objective.model.named_parameters())
    for name, average in optimizers.state().items():
        if not name.endswith("/step"):
            parameter = named[name.rpartition("/")[0]]
            assert isinstance(average, DTensor)
            assert average.placements == parameter.placements
            assert average.shape == parameter.shape
