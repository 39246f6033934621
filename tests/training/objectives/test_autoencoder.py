import numpy as np
import pytest
import torch

from rectiflow.data.draws import Draws
from rectiflow.encoders.autoencoder import Autoencoder
from rectiflow.encoders.settings import AutoencoderModel
from rectiflow.training.objectives.autoencoder import (
    AutoencoderObjective,
    edge_error,
    kl_to_standard_normal,
)
from rectiflow.training.settings.objectives import AutoencoderLoss

MODEL = AutoencoderModel(latent_channels=4, widths=(8, 8, 16, 16), norm_groups=4)


def batch(num=4):
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.rand(num, 3, 16, 16, generator=generator) * 2 - 1}


def draws(num=4, first=0):
    return Draws(7, np.arange(first, first + num))


def test_kl_is_the_one_torch_knows():
    mean, log_variance = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected.mean((1, 2, 3)))


def test_edge_error_of_a_misplaced_step():
    target = torch.zeros(1, 1, 2, 4)
    target[..., 2:] = 1
    shifted = torch.zeros(1, 1, 2, 4)
    shifted[..., 3:] = 1
    # The error is one column of -1: in each row of three column differences, two of them are off
    # by 1; the rows do not differ.
    assert edge_error(shifted, target).item() == pytest.approx((2 / 3 + 0) / 2)
    assert edge_error(target + 0.3, target).item() == pytest.approx(0, abs=1e-12)


def test_loss_is_the_weighted_sum_of_its_terms_sample_by_sample():
    objective = AutoencoderObjective(
        Autoencoder.new(MODEL), AutoencoderLoss(kl_weight=0.5, edge_weight=3.0)
    )
    terms = objective.loss(batch(), draws())
    parts = terms.extra
    expected = parts["reconstruction"] + 3 * parts["edge"] + 0.5 * parts["kl"]
    torch.testing.assert_close(terms.loss, expected)
    assert terms.loss.shape == (4,)
    assert terms.t is None
    result = objective.model(batch()["image"], draws().normal("posterior", (4, 2, 2)))
    error = (result.image - batch()["image"]).square().mean((1, 2, 3))
    torch.testing.assert_close(parts["reconstruction"], error)


def test_a_sample_has_its_loss_wherever_it_is_in_a_batch():
    objective = AutoencoderObjective(Autoencoder.new(MODEL), AutoencoderLoss())
    whole = objective.loss(batch(), draws()).loss
    image = batch()["image"][2:]
    torch.testing.assert_close(objective.loss({"image": image}, draws(2, first=2)).loss, whole[2:])
    assert not torch.allclose(objective.loss({"image": image}, draws(2)).loss, whole[2:])


def test_every_weight_changes_the_loss_and_negative_ones_are_refused():
    model = Autoencoder.new(MODEL)
    losses = [
        AutoencoderObjective(model, settings).loss(batch(), draws()).loss.mean().item()
        for settings in (
            AutoencoderLoss(),
            AutoencoderLoss(kl_weight=1.0),
            AutoencoderLoss(edge_weight=0.0),
        )
    ]
    assert len(set(losses)) == 3
    with pytest.raises(ValueError, match=r"kl_weight must be >= 0, got -1"):
        AutoencoderLoss(kl_weight=-1.0)


def test_a_tiny_autoencoder_learns_four_pictures():
    model = Autoencoder.new(MODEL).train()
    objective = AutoencoderObjective(model, AutoencoderLoss())
    flat = torch.tensor([-0.8, -0.2, 0.4, 1.0])[:, None, None, None].expand(4, 3, 16, 16).clone()
    flat[:, :, 4:9, 6:12] *= -1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    num_steps = 250
    for step in range(num_steps):
        # Decays to zero, so that the end does not hang on the order of sums of this machine.
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / num_steps)
        loss = objective.loss({"image": flat}, draws(4, first=4 * step)).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    restored = model.eval().decode(model.encode(flat))
    # In dB of the range; the best constant per picture and channel reaches 9.4.
    assert -10 * ((restored - flat).square().mean() / 4).log10() > 25
