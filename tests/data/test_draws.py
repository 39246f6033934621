"""Draws are a law of (seed, purpose, position) and of nothing else."""

import numpy as np
import pytest
import torch

from rectiflow.data.draws import Draws


def draws(positions, seed=0):
    return Draws(seed, np.asarray(positions, dtype=np.int64))


def test_a_sample_draws_the_same_in_any_batch():
    together = draws(range(100, 132))
    shuffled = np.random.default_rng(0).permutation(32)
    apart = together.select(shuffled)
    alone = draws([117])
    for name, shape in [("uniform", (3,)), ("uniform", ()), ("normal", (4, 2, 2))]:
        all_at_once = getattr(together, name)("purpose", shape)
        assert torch.equal(getattr(apart, name)("purpose", shape), all_at_once[shuffled])
        assert torch.equal(getattr(alone, name)("purpose", shape)[0], all_at_once[17])


def test_purpose_seed_and_position_each_change_the_numbers():
    reference = draws(range(64)).uniform("time")
    for other in (
        draws(range(64)).uniform("noise"),
        draws(range(64), seed=1).uniform("time"),
        draws(range(64), seed=2**32).uniform("time"),  # torch's CPU generator would not notice
        draws(range(64), seed=-1).uniform("time"),
        draws(range(2**40, 2**40 + 64)).uniform("time"),
    ):
        assert not (other == reference).any()


def test_uniform_has_the_moments_of_the_law_and_no_correlation_between_neighbours():
    u = draws(range(40_000)).uniform("time")
    assert u.dtype == torch.float64
    assert u.min() > 0
    assert u.max() < 1
    assert u.mean().item() == pytest.approx(1 / 2, abs=5 * (1 / 12 / 40_000) ** 0.5)
    assert u.var().item() == pytest.approx(1 / 12, abs=0.002)
    neighbours = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
    assert abs(neighbours.item()) < 5 / 200


def test_normal_has_the_moments_of_the_law():
    x = draws(range(2_000)).normal("noise", (32,))
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.var().item() == pytest.approx(1, abs=0.03)
    assert x.pow(4).mean().item() == pytest.approx(3, abs=0.2)


def test_the_ends_of_the_unit_interval_are_never_drawn(monkeypatch):
    """The largest and the smallest number numpy can return stay inside (0, 1)."""
    for extreme in (0.0, 1 - 2.0**-53):

        class Stub:
            def random(self, shape, value=extreme):
                return np.full(shape, value)

        monkeypatch.setattr(Draws, "_generators", lambda self, purpose, stub=Stub: [stub()])
        u = draws([0]).uniform("time")
        assert 0 < u.item() < 1


def test_the_first_numbers_never_change():
    """A run resumed after an upgrade must see the same numbers; Philox is fixed by its paper."""
    assert draws([0, 5], seed=7).uniform("time").tolist() == pytest.approx(EXPECTED, abs=0)


EXPECTED = [0.7457310880275753, 0.3984155626367646]


def test_positions_of_another_type_are_refused():
    with pytest.raises(ValueError, match="positions must be int64"):
        Draws(0, np.zeros(3))
    with pytest.raises(ValueError, match=r"positions must be >= 0, got -1"):
        draws([-1])
