"""Drawing through every formulation: the right beginning, times, network inputs and end."""

import pytest
import torch

from rectiflow.conditioning import Conditioning
from rectiflow.flow.formulations import TABLE_1, formulation
from rectiflow.flow.solvers import SOLVERS
from rectiflow.sampling.options import SamplingOptions
from rectiflow.sampling.solving import carry

TEXT = Conditioning(torch.zeros(3, 1, 1), torch.zeros(3, 1), segments=(1,))
DATA = torch.full((3, 1, 2, 2), 0.7)


class Knowing(torch.nn.Module):
    """Knows that all data is DATA, and puts out what its formulation asks for."""

    def __init__(self, form):
        super().__init__()
        self.form, self.seen = form, []

    def forward(self, x_in, t_in, cond):
        self.seen.append((x_in, t_in))
        t = self.form.times(4)[len(self.seen) - 1].float().expand(3)  # one call per step of Euler's
        c = self.form.path.coefficients_like(t, x_in)
        expected = self.form.path.interpolate(DATA, torch.zeros_like(DATA), t)
        scale = (c.sigma**2 + 0.25).sqrt() if self.form.name.startswith("edm") else 1
        noise = (x_in * scale - expected) / c.sigma
        return self.form.prediction.target(self.form.path, DATA, noise, t)


@pytest.mark.parametrize("solver", SOLVERS)
def test_predicted_data_is_drawn_by_solvers_that_do_not_ask_where_it_says_nothing(solver):
    """A network that errs by 0.01 is drawn with about that error, or not at all."""
    form, noise = formulation("data/cos"), torch.ones(3, 1, 2, 2)
    options = SamplingOptions(guidance_scale=1.0, solver=solver)

    class Erring(torch.nn.Module):
        def forward(self, x, t, cond):
            return DATA + 0.01 * torch.sin(7 * x)

    def drawn():
        return carry(Erring(), form, noise, TEXT, TEXT, options, draw=torch.zeros_like)

    if solver in ("heun", "rk4", "dopri5"):
        with pytest.raises(ValueError, match=f"{solver} asks for the velocity at t = 0, .*euler"):
            drawn()
    else:
        assert (drawn() - DATA).abs().max() < 0.03


@pytest.mark.parametrize("name", [*TABLE_1, "eps/cos"])
def test_who_knows_the_data_draws_it_from_any_noise(name):
    form = formulation(name)
    network = Knowing(form)
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    options = SamplingOptions(num_steps=4, guidance_scale=1.0)
    drawn = carry(network, form, noise, TEXT, TEXT, options)
    torch.testing.assert_close(drawn, DATA, rtol=1e-4, atol=1e-4)
    x_first, t_first = network.seen[0]
    if name.startswith("edm"):
        noise, at_first = 80 * noise / (80**2 + 0.25) ** 0.5, torch.tensor(80.0).log() / 4
    else:
        at_first = form.times(4)[0].float()
    torch.testing.assert_close(x_first, noise)
    torch.testing.assert_close(t_first, at_first.expand(3))
    told = torch.stack([t[0] for _, t in network.seen])
    assert (told.diff() < 0).all()
