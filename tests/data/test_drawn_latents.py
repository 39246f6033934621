"""Latents drawn from their posterior: keyed by position, of the stored mean and variance."""

import numpy as np
import pytest
import torch

from rectiflow.data.draws import Draws
from rectiflow.data.stored import StoreSource
from rectiflow.preparation.prepare import Batching, prepare_store
from tests.preparation.fakes import FakeRecords, fake_encoders

NUM = 20


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "store"
    batching = Batching(batch_size=8, records_per_shard=8)
    return prepare_store(FakeRecords(NUM), fake_encoders(), folder, batching)


def batch(store, positions, latent="sample", seed=7, **options):
    positions = np.asarray(positions, dtype=np.int64)
    source = StoreSource(store, seed=0, states=dict, latent=latent, **options)
    return source.batch(positions, Draws(seed, positions))


def test_a_drawn_latent_is_the_mean_plus_the_standard_deviation_times_its_noise(store):
    positions = np.arange(NUM)
    drawn = batch(store, positions, shuffle=False)
    stored = store.rows(positions, with_log_variance=True)
    noise = Draws(7, positions).normal("posterior", (3, 2, 2))
    expected = stored["latent"] + stored["log_variance"].float().exp().sqrt() * noise
    torch.testing.assert_close(drawn["latent"], expected, rtol=0, atol=1e-6)
    assert drawn["latent"].dtype == torch.float32
    assert "log_variance" not in drawn
    assert torch.equal(batch(store, positions, "mean", shuffle=False)["latent"], stored["latent"])


def test_over_many_epochs_the_draws_of_a_record_have_its_mean_and_variance(store):
    positions = 3 + NUM * np.arange(4000)
    drawn = batch(store, positions, shuffle=False)["latent"].double()
    stored = store.rows([3], with_log_variance=True)
    variance = stored["log_variance"][0].double().exp()
    error = (drawn.mean(dim=0) - stored["latent"][0]) / variance.sqrt()
    assert error.abs().max() < 4.5 / 4000**0.5
    assert ((drawn.var(dim=0) / variance).log().abs() < 4.5 * (2 / 4000) ** 0.5).all()


def test_a_draw_depends_on_seed_and_position_and_not_on_its_batch(store):
    whole = batch(store, np.arange(2 * NUM))
    for part in (slice(0, 3), slice(3, 2 * NUM), np.array([31, 2])):
        alone = batch(store, np.arange(2 * NUM)[part])
        assert torch.equal(alone["latent"], whole["latent"][part])
    other = batch(store, np.arange(2 * NUM), seed=8)
    assert other["ids"] == whole["ids"]
    assert (other["latent"] != whole["latent"]).all()
    first, second = whole["ids"][:NUM], whole["ids"][NUM:]
    again = [NUM + second.index(id) for id in first]  # the same records an epoch later
    assert (whole["latent"][:NUM] != whole["latent"][again]).all()
