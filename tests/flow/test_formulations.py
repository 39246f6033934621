import math

import pytest
import torch

from rectiflow.flow.densities import CosMap, LogitNormal, Mode, Uniform
from rectiflow.flow.formulations import Formulation, formulation

NAMES = {
    "rf": Uniform(),
    "rf/lognorm(0.00,1.00)": LogitNormal(0.0, 1.0),
    "rf/lognorm(-0.50,1.00)": LogitNormal(-0.5, 1.0),
    "rf/lognorm(0.125,2.20)": LogitNormal(0.125, 2.2),
    "rf/mode(1.29)": Mode(1.29),
    "rf/mode(-0.08)": Mode(-0.08),
    "rf/cosmap": CosMap(),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_paper_parse_and_print_back(name):
    assert formulation(name).name == name
    assert formulation(name).density == NAMES[name]


@pytest.mark.parametrize(
    "spelling", ["rf/lognorm(0,1)", " rf/lognorm( 0.0 , 1 ) ", "rf/lognorm(-0,1)"]
)
def test_spellings_of_one_formulation_have_one_name(spelling):
    assert formulation(spelling) == formulation("rf/lognorm(0.00,1.00)")
    assert formulation(spelling).name == "rf/lognorm(0.00,1.00)"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("rf/lognrm(0,1)", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(1)", "rf/lognorm(0.00,1.00)"),
        ("rf/lognorm(0,one)", "rf/lognorm(0.00,1.00)"),
        ("rf/mode", "rf/mode(1.29)"),
        ("rf/cosmap(1)", "rf/cosmap"),
        ("rf()", "rf"),
        ("RF", "rf"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="unknown formulation") as refusal:
        formulation(name)
    assert str(refusal.value).endswith(repr(nearest))


def test_numbers_out_of_range_are_refused_with_the_name():
    with pytest.raises(ValueError, match=r"rf/mode\(3\).*in \[-1, 1.7519\], got 3.0"):
        formulation("rf/mode(3)")
    with pytest.raises(ValueError, match=r"rf/lognorm\(0,-1\).*std > 0"):
        formulation("rf/lognorm(0,-1)")
    with pytest.raises(ValueError, match="mean must be finite"):
        formulation("rf/lognorm(inf,1)")


def test_loss_of_a_known_predictor_has_its_closed_form():
    """Data ~ N(0, 0.5^2), output c x_t: E[loss] = (1 - c t)^2 + 0.25 (1 + c (1 - t))^2."""
    form, c, t = formulation("rf"), 0.7, torch.full((64,), 0.3)
    data, noise = torch.randn(2, 64, 4096, generator=torch.Generator().manual_seed(0)).unbind()
    data = 0.5 * data
    loss = form.loss(c * form.path.interpolate(data, noise, t), data, noise, t)
    assert loss.shape == (64,)
    expected = (1 - c * 0.3) ** 2 + 0.25 * (1 + c * 0.7) ** 2
    assert loss.mean().item() == pytest.approx(expected, rel=0.01)


def test_the_true_velocity_has_no_loss_and_is_read_as_velocity():
    form = formulation("rf/lognorm(0,1)")
    data, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0.1, 0.5, 0.9])
    assert form.loss(noise - data, data, noise, t).tolist() == [0, 0, 0]
    output = form.velocity(noise - data, form.path.interpolate(data, noise, t), t)
    assert output.equal(noise - data)


def test_weight_multiplies_each_samples_loss():
    plain = formulation("rf")
    weighted = Formulation(
        name="rf weighted",
        path=plain.path,
        prediction=plain.prediction,
        density=plain.density,
        weight=lambda t: t / (1 - t),
    )
    data, noise, output = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0.25, 0.5, 0.75])
    ratio = weighted.loss(output, data, noise, t) / plain.loss(output, data, noise, t)
    torch.testing.assert_close(ratio, torch.tensor([1 / 3, 1, 3]))


def test_every_formulation_draws_times_of_its_own():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    draws = [formulation(name).density.quantile(u) for name in NAMES]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert (one - other).abs().max() > 0.005
    assert math.isclose(draws[1][49].item(), 0.5)
