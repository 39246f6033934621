"""Muon takes the matrices of the blocks, AdamW the rest; both survive a restart."""

import pytest
import torch
from torch import nn

from rectiflow.flow.formulations import formulation
from rectiflow.nn.pixart import PixArt, PixArtConfig
from rectiflow.training.ema import copy_into
from rectiflow.training.objectives.base import Objective, Terms
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.optim import Optimizers
from rectiflow.training.settings.training import TrainingSettings
from tests.training.tiny import tiny_objective


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.modulation = nn.Linear(4, 24)
        self.out = nn.Linear(4, 6)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([Block()])


class Squares(Objective):
    def __init__(self):
        torch.manual_seed(0)
        self.model = Model()

    def loss(self, batch, draws):
        total = sum(p.square().sum() for p in self.model.parameters())
        return Terms(total[None])


def settings(**changes):
    return TrainingSettings(**{"num_steps": 5, "weight_decay": 0.0, **changes})


def descend(objective, optimizers, num_steps=1):
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        for parameter in objective.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizers.step()


def test_stacked_matrices_are_told_apart():
    assert Squares().matrices() == {
        "blocks.0.qkv.weight": 3,
        "blocks.0.out.weight": 1,
    }


def test_muon_moves_each_matrix_by_an_orthogonal_update_of_known_size():
    """The singular values of the update lie in [0.6, 1.3] times 0.2 rate sqrt(4)."""
    objective = Squares()
    before = {n: p.detach().clone() for n, p in objective.model.named_parameters()}
    optimizers = Optimizers(objective, settings(muon_learning_rate=0.5))
    descend(objective, optimizers)
    after = dict(objective.model.named_parameters())
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        moved = after["blocks.0.qkv.weight"][rows] - before["blocks.0.qkv.weight"][rows]
        singular = torch.linalg.svdvals(moved) / (0.2 * 0.5 * 4**0.5)
        assert singular.min() > 0.6
        assert singular.max() < 1.3


def test_adamw_moves_the_rest_by_its_rate():
    """The first step of Adam is rate * sign(gradient)."""
    objective = Squares()
    before = objective.model.embedding.weight.detach().clone()
    optimizers = Optimizers(objective, settings(learning_rate=0.01))
    optimizers.set_rate(0.5)
    objective.model.embedding.weight.grad = torch.full((4, 3), -2.0)
    optimizers.step()
    torch.testing.assert_close(objective.model.embedding.weight, before + 0.005)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_only_matrices_decay(optimizer):
    objective = Squares()
    before = {n: p.detach().clone() for n, p in objective.model.named_parameters()}
    s = settings(weight_decay=0.1, learning_rate=0.5, muon_learning_rate=0.5, optimizer=optimizer)
    optimizers = Optimizers(objective, s)
    for parameter in objective.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step()
    for name, parameter in objective.model.named_parameters():
        factor = 0.95 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_scales_of_norms_neither_decay_nor_become_orthogonal(optimizer):
    objective = tiny_objective()
    named = dict(objective.model.named_parameters())
    scales = {name: p.detach().clone() for name, p in named.items() if name.endswith("norm.scale")}
    assert scales
    assert not scales.keys() & objective.matrices().keys()
    optimizers = Optimizers(objective, settings(weight_decay=0.1, optimizer=optimizer))
    for parameter in named.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step()
    for name, scale in scales.items():
        assert torch.equal(named[name], scale)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_restored_state_continues_bit_for_bit(optimizer):
    first, second = Squares(), Squares()
    ours = Optimizers(first, settings(optimizer=optimizer))
    descend(first, ours, 3)
    second.model.load_state_dict(first.model.state_dict())
    theirs = Optimizers(second, settings(optimizer=optimizer))
    saved = {name: tensor.clone() for name, tensor in ours.state().items()}
    copy_into(theirs.state(), saved, "the state of the optimizer")
    assert any(name.endswith("/momentum_buffer") for name in saved) == (optimizer == "muon")
    for objective, optimizers in ((first, ours), (second, theirs)):
        descend(objective, optimizers, 2)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(theirs.state()[name], tensor) for name, tensor in ours.state().items())


def test_the_state_of_another_optimizer_is_refused():
    objective = Squares()
    muon = Optimizers(objective, settings())
    descend(objective, muon)
    adamw = Optimizers(Squares(), settings(optimizer="adamw"))
    with pytest.raises(ValueError, match="the state of the optimizer"):
        copy_into(adamw.state(), muon.state(), "the state of the optimizer")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_tables_of_modulations_neither_decay_nor_become_orthogonal(optimizer):
    config = PixArtConfig(
        depth=1,
        num_heads=1,
        head_width=8,
        latent_channels=2,
        context_width=4,
        pooled_width=3,
        base_latent_side=4,
    )
    objective = FlowObjective(PixArt(config), formulation("rf"), 0.0)
    parameters = dict(objective.model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizers = Optimizers(objective, settings(optimizer=optimizer, weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.set_rate(1.0)
    optimizers.step()
    for name, value in before.items():
        decays = not parameters[name].equal(value)
        is_matrix = value.ndim >= 2 and "scale_shift_table" not in name and bool(value.any())
        assert decays == is_matrix, name


def test_clipping_returns_the_norm_it_found():
    objective = Squares()
    optimizers = Optimizers(objective, settings())
    for parameter in objective.model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    count = sum(p.numel() for p in objective.model.parameters())
    assert optimizers.clip(0).item() == pytest.approx(2 * count**0.5)
    assert optimizers.clip(1.0).item() == pytest.approx(2 * count**0.5)
    assert optimizers.clip(0).item() == pytest.approx(1.0, abs=1e-5)
    grads = [p.grad for p in objective.model.parameters() if p.grad is not None]
    versions = [grad._version for grad in grads]
    optimizers.clip(1.01)  # nothing to clip: a CPU does not even write
    assert [grad._version for grad in grads] == versions


def test_a_matrix_that_does_not_exist_is_refused():
    objective = Squares()
    objective.matrices = lambda: {"nowhere": 1}
    with pytest.raises(ValueError, match="matrices must name trained parameters, got nowhere"):
        Optimizers(objective, settings())
