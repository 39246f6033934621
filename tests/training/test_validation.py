"""Validation is the same question every time, and its answer is known for a known network."""

import numpy as np
import pytest
import torch

from rectiflow.flow.formulations import formulation
from rectiflow.training.objectives.base import Objective, Terms
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.validation import FlowValidation, HeldOutValidation
from tests.training.tiny import TinySource, assemble, draws, tiny_objective


class Silent(torch.nn.Module):
    """Predicts zero, so the loss at every time is the mean of (noise - data)^2."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, x, t, cond):
        self.seen.append((x, t, cond))
        return x * self.weight


def test_a_silent_network_has_the_loss_of_its_targets_at_every_time():
    objective = FlowObjective(Silent(), formulation("rf"), 0.464, assemble)
    source = TinySource(500)
    result = FlowValidation(objective, source, seed=0, batch_size=64)(objective.model)
    data = source.batch(np.arange(500), None)["latent"]
    expected = 1 + data.square().mean().item()
    assert result["val_loss_by_t"] == pytest.approx([result["val_loss_by_t"][0]] * 8)
    assert result["val_loss"] == pytest.approx(expected, abs=5 * (2 / 500 / 32) ** 0.5 * expected)


def test_times_are_the_eighths_and_every_text_is_kept():
    objective = FlowObjective(Silent(), formulation("rf"), 1.0, assemble)
    FlowValidation(objective, TinySource(5), seed=0)(objective.model)
    times = [t.unique().item() for _, t, _ in objective.model.seen]
    assert times == [k / 8 for k in range(1, 9)]
    source = TinySource(5)
    states = source.batch(np.arange(5), None)["states"]
    assert all(torch.equal(cond.pooled, states) for _, _, cond in objective.model.seen)


def test_the_mean_leaves_out_the_last_time_and_batches_do_not_matter():
    objective = tiny_objective()
    torch.manual_seed(0)
    for parameter in objective.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    one, other = (FlowValidation(objective, TinySource(10), 1, size) for size in (10, 3))
    first, second = one(objective.model), other(objective.model)
    losses = first["val_loss_by_t"]
    assert first["val_loss"] == pytest.approx(sum(losses[:7]) / 7)
    assert len(set(losses)) == 8
    assert second["val_loss_by_t"] == pytest.approx(losses, rel=1e-4)
    assert one(objective.model) == first


def test_other_objectives_report_the_mean_of_their_terms():
    class Constant(Objective):
        model = Silent()

        def loss(self, batch, draws):
            loss = batch["latent"].mean(dim=(1, 2, 3))
            return Terms(loss, None, {"half": loss / 2})

    source = TinySource(7)
    result = HeldOutValidation(Constant(), source, seed=0, batch_size=2)(Constant.model)
    mean = source.batch(np.arange(7), None)["latent"].mean().item()
    assert result == pytest.approx({"val_loss": mean, "val_half": mean / 2})


def test_noise_of_the_validation_is_not_that_of_the_training():
    objective = FlowObjective(Silent(), formulation("rf"), 0.0, assemble)
    FlowValidation(objective, TinySource(4), seed=3)(objective.model)
    at_one = objective.model.seen[-1][0]  # t = 1: x is the noise
    assert not torch.isclose(at_one, draws(4, seed=3).normal("noise", (2, 4, 4))).any()
