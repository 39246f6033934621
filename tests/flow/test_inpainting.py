"""The known part of a picture follows its own path and arrives unchanged."""

import pytest
import torch

from rectiflow.flow.inpainting import keep_known
from rectiflow.flow.paths import RectifiedFlow
from rectiflow.flow.solvers import SOLVERS, integrate
from rectiflow.flow.times import time_grid


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 3, 4, 5, 5, generator=generator)
    return data, noise


REDRAWN = torch.zeros(3, 1, 5, 5, dtype=torch.bool)
REDRAWN[..., 2:] = True


def test_the_known_part_is_the_same_noise_on_its_straight_path(pair):
    data, noise = pair
    after = keep_known(RectifiedFlow(), data, noise, REDRAWN)(
        torch.full_like(data, 9.0), torch.tensor([0.0, 0.25, 1.0])
    )
    assert (after[..., 2:] == 9).all()
    assert after[0, ..., :2].equal(data[0, ..., :2])
    torch.testing.assert_close(after[1, ..., :2], (0.75 * data + 0.25 * noise)[1, ..., :2])
    assert after[2, ..., :2].equal(noise[2, ..., :2])


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "dopri5"])
def test_the_known_part_arrives_bit_for_bit_and_the_solver_sees_it_on_the_way(pair, name):
    data, noise = pair
    seen = []

    def velocity(x, t):
        seen.append((x, t))
        return torch.full_like(x, 0.3)

    times = time_grid(4, 2.0)
    keep = keep_known(RectifiedFlow(), data, noise, REDRAWN)
    end = integrate(velocity, noise, times, SOLVERS[name], after_step=keep, draw=torch.randn_like)
    assert end[..., :2].equal(data[..., :2])
    if name != "sde":
        torch.testing.assert_close(end[..., 2:], (noise - 0.3)[..., 2:])
    starts = seen[:: len(SOLVERS[name].stages)]
    assert [t[0] for _, t in starts] == times[:-1].float().tolist()
    for x, t in starts:
        expected = RectifiedFlow().interpolate(data, noise, t)[..., :2]
        torch.testing.assert_close(x[..., :2], expected)
