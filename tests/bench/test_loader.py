import pytest

from rectiflow.bench import loader, reading
from rectiflow.bench.loader import MAX_GROWTH_MIB, growth, read_store
from rectiflow.bench.settings import BenchSettings
from rectiflow.bench.stores import SD3, random_store
from rectiflow.data.manifest import ArraySpec
from rectiflow.data.store import Store
from rectiflow.preparation.encode import STATES

SMALL = {
    "latent": ArraySpec(shape=(2, 2, 2), dtype="float32"),
    "log_variance": ArraySpec(shape=(2, 2, 2), dtype="float16"),
    **{name: ArraySpec(shape=(3, 4), dtype="float16") for name in STATES},
    **{name: ArraySpec(shape=(4,), dtype="float16") for name in ("pooled_l", "pooled_g")},
}


def test_growth_is_between_the_most_of_each_half():
    assert growth([300.0, 340.0, 310.0, 339.0, 345.0, 301.0]) == 5
    assert growth([340.0, 310.0, 320.0, 330.0]) == 0


def test_a_sample_of_the_random_store_has_the_paper_s_bytes():
    """Table 7 of arXiv 2403.03206, but for its latents and states of 77 tokens."""
    sizes = {name: 2 * spec.shape[0] * spec.shape[-1] for name, spec in SD3.items()}
    assert sizes["t5"] == 630_784
    assert sizes["clip_l"] + 2 * 2 * 768 == 121_344
    assert sizes["clip_g"] + 2 * 2 * 1280 == 202_240
    assert 4 * 16 * 32 * 32 == 65_536


def test_every_pass_reads_the_store_once(tmp_path, monkeypatch):
    random_store(tmp_path, SMALL, 20, 8)
    store = Store.open(tmp_path)
    store.verify()
    assert [shard.num_records for shard in store.manifest.shards] == [8, 8, 4]
    assert store.captions([9], "synthetic") == ["synthetic 9"]
    read, num = [], 0
    plain, clock = Store.rows, iter(range(1000))

    def rows(self, indices, *others, **settings):
        read.extend(indices.tolist())
        return plain(self, indices, *others, **settings)

    monkeypatch.setattr(Store, "rows", rows)
    monkeypatch.setattr(reading, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(reading.time, "perf_counter", lambda: next(clock))
    settings = {"batch_size": 5, "num_workers": 0, "num_passes": 2, "is_widened": True}
    measured = reading.read_passes(str(tmp_path), **settings)
    assert measured["rates"] == [20, 20]  # a pass took one tick
    for num in range(3):
        assert sorted(read[20 * num : 20 * (num + 1)]) == list(range(20))
    assert len(measured["anonymous_mib"]) in (0, 2)


def test_figures_stand_against_their_bars(monkeypatch):
    def read(store, batch_size, num_passes, num_workers, *, is_widened=False):
        rate = 40_000 if store.name == "tiny" else 2500 - 2000 * is_widened
        memory = [100.0, 130.0, 100.0, 131.0 + MAX_GROWTH_MIB]
        return {"rates": [rate] * num_passes, "anonymous_mib": memory}

    monkeypatch.setattr(loader, "read_store", read)
    monkeypatch.setattr(loader, "random_store", lambda *arguments: None)
    monkeypatch.setattr(loader, "one_step", lambda *arguments: lambda: None)
    monkeypatch.setattr(loader, "rates", lambda work, repeats: [work(0) * 62.5] * repeats)
    figures = loader.measure_loader(BenchSettings(is_quick=True))
    met = {name: figure.is_met for name, figure in figures.items()}
    assert met == {
        "samples of 256 px": True,
        "samples of 256 px, widened": None,
        "growth of memory": False,
        "samples of scenes-tiny": None,
        "times what scenes-tiny eats": True,
    }
    times = figures["times what scenes-tiny eats"]
    assert times.value == pytest.approx(40_000 / (32 * 62.5))


@pytest.mark.slow
def test_memory_stays_flat_over_ten_passes(tmp_path):
    """A quarter of a gigabyte, ten times; what no file backs holds the batches on their way."""
    random_store(tmp_path, SD3, 128, 32)
    memory = read_store(tmp_path, 32, 10, 2)["anonymous_mib"]
    if not memory:
        pytest.skip("the system does not tell")
    assert growth(memory) < MAX_GROWTH_MIB
    assert max(memory) < 600
