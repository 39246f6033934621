"""Predictions are the mixtures they name, and say the same velocity."""

import math

import pytest
import torch

from rectiflow.flow.paths import Cosine, DdpmLinear, LdmLinear, RectifiedFlow, VarianceExploding
from rectiflow.flow.predictions import (
    DataPrediction,
    EdmPrediction,
    NoisePrediction,
    VelocityPrediction,
    VPrediction,
)

PATHS = [RectifiedFlow(), VarianceExploding(), Cosine(), LdmLinear(), DdpmLinear()]
PREDICTIONS = [
    VelocityPrediction(), NoisePrediction(), DataPrediction(), VPrediction(), EdmPrediction(),
]  # fmt: skip


def drawn(shape=(5, 3, 4)):
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return data, noise, torch.tensor([0.01, 0.2, 0.5, 0.8, 0.97], dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
def test_what_should_be_predicted_implies_the_velocity(path, prediction):
    data, noise, t = drawn()
    x, target = path.interpolate(data, noise, t), prediction.target(path, data, noise, t)
    velocity = prediction.velocity(path, target, x, t)
    torch.testing.assert_close(velocity, path.velocity(data, noise, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_targets_are_what_they_are_called(path):
    data, noise, t = drawn()
    c = path.coefficients_like(t, data)
    assert VelocityPrediction().target(path, data, noise, t).equal(path.velocity(data, noise, t))
    assert NoisePrediction().target(path, data, noise, t).equal(noise)
    assert DataPrediction().target(path, data, noise, t).equal(data)
    v = c.alpha * noise - c.sigma * data
    torch.testing.assert_close(VPrediction().target(path, data, noise, t), v)


def test_v_on_the_cosine_path_is_the_velocity_for_each_radian():
    data, noise, t = drawn()
    v = VPrediction().target(Cosine(), data, noise, t)
    torch.testing.assert_close(math.pi / 2 * v, Cosine().velocity(data, noise, t))


def test_edms_target_inverts_its_preconditioning():
    """arXiv:2206.00364, Table 1: c_skip, c_out and c_in at sigma_data = 0.5, written out."""
    data, noise, _ = drawn((4, 6))
    sigma = torch.tensor([0.002, 0.3, 1.5, 80.0], dtype=torch.float64)
    path, edm, s = VarianceExploding(), EdmPrediction(), sigma.view(-1, 1)
    x = data + s * noise
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt()
    target = edm.target(path, data, noise, sigma / 80)
    torch.testing.assert_close(c_skip * x + c_out * target, data)
    x_in, t_in = edm.network_inputs(path, x, sigma / 80)
    torch.testing.assert_close(x_in, x / (s**2 + 0.25).sqrt())
    torch.testing.assert_close(t_in, sigma.log() / 4)


def test_edms_inputs_are_finite_where_there_is_no_noise_and_have_unit_variance():
    """Departure at the end: without noise the network is told the least, sigma = 0.002."""
    generator, edm, path = torch.Generator().manual_seed(0), EdmPrediction(), VarianceExploding()
    data, noise = torch.randn(2, 4, 4000, generator=generator)
    t = torch.tensor([0.0, 0.01, 0.5, 1.0])
    x_in, t_in = edm.network_inputs(path, path.interpolate(0.5 * data, noise, t), t)
    assert t_in[[0, 3]].tolist() == pytest.approx([math.log(0.002) / 4, math.log(80) / 4])
    assert x_in.std(dim=1).tolist() == pytest.approx([1] * 4, abs=0.03)


def test_other_networks_see_x_and_t_as_they_are():
    data, _, t = drawn()
    for prediction in PREDICTIONS[:-1]:
        x_in, t_in = prediction.network_inputs(Cosine(), data, t)
        assert x_in is data
        assert t_in is t


@pytest.mark.parametrize(
    ("path", "prediction", "time"),
    [
        (Cosine(), NoisePrediction(), 1.0),
        (RectifiedFlow(), DataPrediction(), 0.0),
        (Cosine(), DataPrediction(), 0.0),
        (LdmLinear(), DataPrediction(), 0.0),
        (VarianceExploding(), DataPrediction(), 0.0),
        (VarianceExploding(), EdmPrediction(), 0.0),
    ],
    ids=str,
)
def test_at_singular_times_the_end_of_the_path_is_read(path, prediction, time):
    """There the output says nothing of the velocity, which comes to 0 / 0; nothing of it is nan."""
    x, output = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    end = path.max_time if time else path.min_time
    t = torch.full((3,), time)
    velocity = prediction.velocity(path, output, x, t)
    assert velocity.isfinite().all()
    assert velocity.equal(prediction.velocity(path, output, x, torch.full((3,), end)))


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
def test_float32_is_enough(path, prediction):
    """Error against float64, beside the largest velocity: what is lost where one cancels."""
    data, noise, _ = drawn((4, 8))
    t = torch.tensor([0.01, 0.3, 0.9, path.max_time])
    x = path.interpolate(data, noise, t.double())
    target = prediction.target(path, data, noise, t.double())
    single = prediction.velocity(path, target.float(), x.float(), t).double()
    exact = path.velocity(data, noise, t.double())
    if (
        path.max_time == 1
        and isinstance(prediction, NoisePrediction)
        and type(path) is RectifiedFlow
    ):
        single, exact = single[:-1], exact[:-1]  # no formulation of the study predicts it there
    assert ((single - exact).abs().amax(1) < 2e-3 * exact.abs().amax(1)).all()
