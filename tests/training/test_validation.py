"""Validation is the same question every time, and its answer is known for a known network."""

import math

import numpy as np
import pytest
import torch

from rectiflow.flow.formulations import formulation
from rectiflow.training.objectives.base import Objective, Terms
from rectiflow.training.objectives.flow import FlowObjective
from rectiflow.training.validation import (
    FlowValidation,
    HeldOutValidation,
    matched_times,
    own_times,
)
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


FORMULATIONS = ["rf/mode(1.29)", "edm(0.60,1.20)", "edm/rf", "v/cos", "eps/linear"]


@pytest.mark.parametrize("name", FORMULATIONS)
def test_errors_are_matched_at_the_log_snr_of_rectified_flow_at_the_eighths(name):
    form = formulation(name)
    log_snr = form.path.log_snr(torch.tensor(matched_times(form), dtype=torch.float64))
    expected = [2 * math.log((8 - k) / k) for k in range(1, 8)]
    assert log_snr.tolist() == pytest.approx(expected, abs=1e-4)


def test_own_times_are_the_eighths_and_for_edm_the_eighths_of_its_law():
    eighths = [k / 8 for k in range(1, 9)]
    assert own_times(formulation("v/cos")) == own_times(formulation("rf")) == tuple(eighths)
    octiles = [-1.15035, -0.67449, -0.31864, 0, 0.31864, 0.67449, 1.15035]  # of Normal(0, 1)
    log_sigma = [math.log(80 * t) for t in own_times(formulation("edm(0.60,1.20)"))]
    assert log_sigma[:-1] == pytest.approx([0.6 + 1.2 * z for z in octiles], abs=1e-4)
    assert log_sigma[-1] == pytest.approx(math.log(80))


def test_for_rectified_flow_the_velocity_error_is_the_loss_and_asks_no_more():
    objective = FlowObjective(Silent(), formulation("rf/lognorm(0.5,0.6)"), 0.0, assemble)
    result = FlowValidation(objective, TinySource(6), seed=0)(objective.model)
    assert result["velocity_error_by_t"] == pytest.approx(result["val_loss_by_t"][:7])
    assert result["velocity_error"] == pytest.approx(result["val_loss"])
    assert len(objective.model.seen) == 8


def silent_errors(name):
    """Validation of a network that says 0 everywhere, and the data's second moment."""
    objective, source = FlowObjective(Silent(), formulation(name), 0.0, assemble), TinySource(500)
    data = source.batch(np.arange(500), None)["latent"]
    result = FlowValidation(objective, source, seed=0)(objective.model)
    return result, data.square().mean().item()


def test_who_predicts_no_noise_errs_by_all_of_it():
    """Data is taken for x / alpha, so the velocity of rf errs by noise (1 + sigma / alpha)."""
    result, _ = silent_errors("eps/cos")
    expected = [(8 / (8 - k)) ** 2 for k in range(1, 8)]
    assert result["velocity_error_by_t"] == pytest.approx(expected, rel=0.05)
    assert result["val_loss_by_t"] == pytest.approx([1] * 8, rel=0.05)


def test_who_predicts_no_v_takes_data_for_alpha_x_and_noise_for_sigma_x():
    result, variance = silent_errors("v/cos")

    def error(k):
        alpha, sigma = (8 - k) / math.hypot(8 - k, k), k / math.hypot(8 - k, k)
        of_data, of_noise = (sigma - alpha) * alpha + 1, (sigma - alpha) * sigma - 1
        return of_noise**2 + of_data**2 * variance

    expected = [error(k) for k in range(1, 8)]
    assert result["velocity_error_by_t"] == pytest.approx(expected, rel=0.05)
    at = [math.pi / 2 * k / 8 for k in range(1, 9)]
    losses = [math.cos(a) ** 2 + math.sin(a) ** 2 * variance for a in at]
    assert result["val_loss_by_t"] == pytest.approx(losses, rel=0.05)


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
