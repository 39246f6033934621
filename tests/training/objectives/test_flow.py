"""The flow's objective: the formulation's loss at drawn times, text encoders dropped singly."""

import numpy as np
import pytest
import torch

from rectiflow.flow.formulations import formulation
from rectiflow.training.objectives.flow import FlowObjective
from tests.training.test_validation import Silent
from tests.training.tiny import TinySource, assemble, draws


def objective(dropout=0.464, name="rf/lognorm(0.00,1.00)"):
    return FlowObjective(Silent(), formulation(name), dropout, assemble)


def test_each_text_encoder_is_dropped_on_its_own_and_all_of_them_in_a_tenth():
    keep = objective().keep(draws(20_000)).double()
    assert (1 - keep.mean(dim=0)).tolist() == pytest.approx([0.464] * 3, abs=0.015)
    none_left = (keep.sum(dim=1) == 0).double().mean().item()
    assert none_left == pytest.approx(0.464**3, abs=0.01)
    correlation = torch.corrcoef(keep.T) - torch.eye(3)
    assert correlation.abs().max() < 0.03


def test_dropout_of_one_drops_all_and_of_zero_none():
    assert not objective(1.0).keep(draws(50)).any()
    assert objective(0.0).keep(draws(50)).all()


def test_the_network_sees_the_point_on_the_path_and_the_loss_is_the_velocitys():
    o, d = objective(), draws(9)
    batch = TinySource().batch(d.positions, d)
    terms = o.loss(batch, d)
    x, t, cond = o.model.seen[0]
    assert torch.equal(t, terms.t)
    assert torch.equal(t, o.formulation.density.quantile(d.uniform("time")))
    noise, time = d.normal("noise", (2, 4, 4)), t.view(-1, 1, 1, 1)
    torch.testing.assert_close(x, (1 - time) * batch["latent"] + time * noise)
    expected = (noise - batch["latent"]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(terms.loss, expected)
    kept = torch.where(o.keep(d), batch["states"], 0.0)
    assert torch.equal(cond.pooled, kept)


def test_terms_of_a_sample_do_not_depend_on_its_batch():
    o, together = objective(), draws(12)
    whole = o.loss(TinySource().batch(together.positions, together), together)
    for part in (slice(0, 5), slice(5, 12), np.array([3, 0, 11])):
        alone = together.select(part)
        terms = o.loss(TinySource().batch(alone.positions, alone), alone)
        assert torch.equal(terms.t, whole.t[part])
        torch.testing.assert_close(terms.loss, whole.loss[part])


def test_edms_network_sees_scaled_points_and_the_log_of_the_noise():
    """sigma_data = 0.5: the network is given x / sqrt(sigma^2 + 0.25) and ln(sigma) / 4."""
    o, d = objective(name="edm(-1.20,1.20)"), draws(9)
    batch = TinySource().batch(d.positions, d)
    terms = o.loss(batch, d)
    x_in, t_in, _ = o.model.seen[0]
    noise, sigma = d.normal("noise", (2, 4, 4)), 80 * terms.t.view(-1, 1, 1, 1)
    scale = (sigma**2 + 0.25).sqrt()
    torch.testing.assert_close(x_in, (batch["latent"] + sigma * noise) / scale)
    torch.testing.assert_close(t_in, (80 * terms.t).log() / 4)
    target = (sigma * batch["latent"] - 0.25 * noise) / (0.5 * scale)  # of F; the model says 0
    torch.testing.assert_close(terms.loss, target.square().mean(dim=(1, 2, 3)))
