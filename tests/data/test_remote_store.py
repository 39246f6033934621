"""A store behind a URL is the store in the folder, fetched ahead, once, into a bounded cache."""

import pickle
import threading
import time
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from rectiflow.bench.stores import random_store
from rectiflow.data import store_files
from rectiflow.data.draws import Draws
from rectiflow.data.file_cache import FileCache
from rectiflow.data.manifest import ArraySpec, FileEntry
from rectiflow.data.prefetch import Prefetch
from rectiflow.data.shards import map_columns
from rectiflow.data.store import Store
from rectiflow.data.store_files import RemoteFiles, default_cache
from rectiflow.data.stored import StoreSource
from rectiflow.errors import DataError, DiskFullError

ARRAYS = {
    "latent": ArraySpec(shape=(2, 2, 2), dtype="float32"),
    "log_variance": ArraySpec(shape=(2, 2, 2), dtype="float16"),
    "t5": ArraySpec(shape=(3, 4), dtype="float16"),
}
NUM, PER_SHARD, NUM_SHARDS = 78, 2, 39  # windows of 16, 16 and 7 shards
URL = "memory://bucket/store"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "store"
    random_store(folder, ARRAYS, NUM, PER_SHARD)
    return Store.open(folder)


@pytest.fixture
def fetched(made, monkeypatch):
    """The store is behind `URL`; the list tells the files that are fetched from there."""
    system = fsspec.filesystem("memory")
    system.put(str(made.folder), "/bucket/store", recursive=True)
    names: list[str] = []
    plain = MemoryFileSystem.get_file

    def get_file(self, path, target, **settings):
        names.append(path.removeprefix("/bucket/store/"))
        return plain(self, path, target, **settings)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    monkeypatch.setattr(store_files, "WAIT_SECONDS", (0.0, 0.0))
    yield names
    wait_until(has_fetched)
    system.rm("/bucket", recursive=True)


def size_of(store: Store, num_shards: float) -> int:
    """Bytes of so many shards."""
    shard = store.manifest.shards[0]
    return int(num_shards * (shard.samples.num_bytes + shard.texts.num_bytes))


def num_cached(cache: FileCache) -> int:
    return sum(path.is_file() for path in cache.folder.iterdir()) if cache.folder.exists() else 0


def cached_bytes(cache: FileCache) -> int:
    return sum(path.stat().st_size for path in cache.folder.iterdir() if path.is_file())


def files_of(store: Store, shards) -> set[str]:
    entries = [store.manifest.shards[number] for number in shards]
    return {file.path for shard in entries for file in (shard.samples, shard.texts)}


def has_fetched() -> bool:
    """Whether nothing is being fetched any more."""
    return not any(thread.name == "prefetch" for thread in threading.enumerate())


def wait_until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def batches(source: StoreSource, num_epochs: int, size: int = 6):
    for start in range(0, num_epochs * source.num_samples, size):
        positions = np.arange(start, start + size, dtype=np.int64)
        yield start, source.batch(positions, Draws(0, positions))


def test_a_store_behind_a_url_gives_the_same_batches(made, fetched, tmp_path):
    cache = FileCache(tmp_path / "cache", size_of(made, 100))
    remote = Store.open(URL, cache)
    remote = pickle.loads(pickle.dumps(remote))
    sources = [StoreSource(store, seed=3, states=dict) for store in (made, remote)]
    for (_, here), (_, there) in zip(*(batches(each, 2) for each in sources), strict=True):
        assert here["ids"] == there["ids"]
        assert torch.equal(here["latent"], there["latent"])
        assert torch.equal(here["states"]["t5"], there["states"]["t5"])
    assert sorted(fetched) == sorted(files_of(made, range(NUM_SHARDS)))  # once, for both epochs
    remote.verify()


def test_each_file_is_fetched_once_an_epoch_into_a_cache_that_holds_half_of_them(
    made, fetched, tmp_path
):
    cache = FileCache(tmp_path, size_of(made, 20))
    source = StoreSource(Store.open(URL, cache), seed=1, states=dict)
    for _ in batches(source, 3):
        assert cached_bytes(cache) <= cache.max_bytes
    # Three times at most, and once more what is fetched ahead for the fourth epoch.
    windows = source._order.windows_from(3 * NUM)
    ahead = files_of(made, next(windows))
    assert all(num <= 3 + (name in ahead) for name, num in Counter(fetched).items())
    assert len(set(fetched)) == 2 * NUM_SHARDS


def test_the_next_windows_are_fetched_while_the_first_is_read(made, fetched, tmp_path):
    cache = FileCache(tmp_path, size_of(made, 40))
    source = StoreSource(Store.open(URL, cache), seed=1, states=dict)
    next(batches(source, 1))
    wait_until(lambda: num_cached(cache) == 2 * NUM_SHARDS)
    windows = source._order.windows_from(0)
    ahead = [files_of(made, next(windows)) for _ in range(3)]
    # Four threads fetch in order; a file may be overtaken by those that are fetched beside it.
    assert set(fetched[:20]) <= ahead[0]
    assert set(fetched[40:56]) <= ahead[1]
    assert set(fetched[-6:]) <= ahead[2]


def test_shards_without_chosen_rows_are_not_fetched(made, fetched, tmp_path):
    cache = FileCache(tmp_path, size_of(made, 40))
    rows = np.array([0, 1, 30, 77])
    for is_shuffled in (False, True):
        source = StoreSource(
            Store.open(URL, cache), seed=1, states=dict, rows=rows, shuffle=is_shuffled
        )
        positions = np.arange(4)
        batch = source.batch(positions, Draws(0, positions))
        assert sorted(batch["ids"]) == ["record-0", "record-1", "record-30", "record-77"]
        wait_until(has_fetched)
    assert sorted(fetched) == sorted(files_of(made, [0, 15, 38]))


def test_what_was_fetched_is_verified(made, fetched, tmp_path):
    system = fsspec.filesystem("memory")
    path = f"/bucket/store/{made.manifest.shards[0].texts.path}"
    content = bytearray(system.cat_file(path))
    content[len(content) // 2] ^= 1
    system.pipe_file(path, bytes(content))
    cache = FileCache(tmp_path, size_of(made, 40))
    store = Store.open(URL, cache)
    assert store.rows([5])["ids"] == ["record-5"]
    with pytest.raises(DataError, match=r"texts/00000.arrow is damaged: its checksum"):
        store.rows([0])
    with pytest.raises(DataError, match=r"texts/00000.arrow is damaged: its checksum"):
        store.verify()
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_that_the_disk_of_the_cache_damaged_is_fetched_again(made, fetched, tmp_path):
    cache = FileCache(tmp_path, size_of(made, 40))
    Store.open(URL, cache).rows([0])
    entry = made.manifest.shards[0].samples
    (tmp_path / entry.sha256).write_bytes(b"?" * entry.num_bytes)
    assert Store.open(URL, cache).rows([0])["ids"] == ["record-0"]
    (tmp_path / entry.sha256).write_bytes(b"?" * entry.num_bytes)
    Store.open(URL, cache).verify()
    assert fetched.count(entry.path) == 3


def test_a_file_that_is_longer_than_announced_is_not_fetched_to_its_end(made, fetched, tmp_path):
    entry = made.manifest.shards[0].samples
    fsspec.filesystem("memory").pipe_file(f"/bucket/store/{entry.path}", b"x" * 40_000_000)
    most = 0
    cache = FileCache(tmp_path, size_of(made, 40))

    def watched(path: Path) -> None:
        nonlocal most
        try:
            RemoteFiles(URL, cache)._download(entry, path)
        finally:
            most = path.stat().st_size

    with pytest.raises(DataError, match=r"samples/00000.arrow is damaged: it has more than \d+ b"):
        cache.read(entry, watched, Path.read_bytes)
    assert most < 10_000_000
    assert num_cached(cache) == 0


def test_what_is_missing_is_named(made, fetched, tmp_path):
    system = fsspec.filesystem("memory")
    store = Store.open(URL, FileCache(tmp_path, size_of(made, 40)))
    system.rm("/bucket/store/samples/00000.arrow")
    with pytest.raises(DataError, match=r"memory://bucket/store/samples/00000.arrow is missing"):
        store.rows([0])
    with pytest.raises(ValueError, match="must be in a folder here, got memory://bucket/store"):
        store.folder.exists()
    system.pipe_file("/bucket/store/manifest.json", b"[")
    with pytest.raises(DataError, match=r"memory://bucket/store/manifest.json is damaged"):
        Store.open(URL)
    with pytest.raises(FileNotFoundError, match=r"memory://bucket/other is not an encoded store"):
        Store.open("memory://bucket/other")
    with pytest.raises(ValueError, match=r"cannot open nothing://bucket: Protocol not known"):
        Store.open("nothing://bucket")
    with pytest.raises(ValueError, match=r"cannot open reference://x: .*argument"):
        Store.open("reference://x")
    with pytest.raises(ValueError, match=r"must name one protocol, .*, got reference://::memory:"):
        Store.open("reference://::memory://bucket/store")


def test_a_cache_that_does_not_hold_what_is_mixed_is_refused(made, fetched, tmp_path):
    for shards, is_shuffled in ((15.9, True), (0.9, False)):
        store = Store.open(URL, FileCache(tmp_path, size_of(made, shards)))
        with pytest.raises(ValueError, match=r"data.cache_bytes must be >= \d+ for memory://"):
            StoreSource(store, seed=0, states=dict, shuffle=is_shuffled)


def test_a_lost_connection_is_tried_again(made, fetched, tmp_path, monkeypatch):
    plain, errors = MemoryFileSystem.get_file, [ConnectionError("gone"), TimeoutError("late")]

    def get_file(self, path, target, **settings):
        if errors:
            raise errors.pop(0)
        return plain(self, path, target, **settings)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    store = Store.open(URL, FileCache(tmp_path, size_of(made, 40)))
    assert store.rows([0])["ids"] == ["record-0"]
    errors += [ConnectionError("gone")] * 3
    message = r"^memory://bucket/store/samples/00002.arrow cannot be fetched: gone$"
    with pytest.raises(ConnectionError, match=message):
        store.rows([5])
    errors += [KeyError("no credentials")]  # not an OSError: waiting does not mend it
    with pytest.raises(ConnectionError, match="cannot be fetched: 'no credentials'"):
        store.rows([5])
    errors[:] = [OSError(28, "No space left on device")]
    with pytest.raises(DiskFullError, match=r"disk of the cache .* is full; make room"):
        store.rows([5])


def test_the_file_used_longest_ago_makes_room_and_stays_readable_where_it_is_mapped(made, tmp_path):
    shards = [shard.samples for shard in made.manifest.shards[:3]]
    cache = FileCache(tmp_path, sum(entry.num_bytes for entry in shards[:2]))

    def copy(entry: FileEntry):
        return lambda path: path.write_bytes((made.folder / entry.path).read_bytes())

    columns = [cache.read(e, copy(e), lambda p: map_columns(p, PER_SHARD)) for e in shards[:2]]
    ids = columns[1]["id"].to_pylist()
    assert cache.keep(shards[0])  # now the second was used longest ago
    cache.read(shards[2], copy(shards[2]), Path.read_bytes)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {shards[0].sha256, shards[2].sha256}
    assert columns[1]["id"].to_pylist() == ids == ["record-2", "record-3"]
    assert not cache.keep(shards[1])


def test_the_newest_expectation_counts_and_a_failure_stops_nothing():
    done, begun, go_on = [], threading.Event(), threading.Event()

    def work(thing: int) -> None:
        begun.set()
        assert go_on.wait(20)
        if thing == 7:
            raise OSError("on purpose")
        done.append(thing)

    prefetch = Prefetch(work, num_threads=1)
    prefetch.expect([1, 2, 3])
    assert begun.wait(20)
    prefetch.expect([7, 5, 6])
    go_on.set()
    wait_until(lambda: len(done) == 3)
    assert done == [1, 5, 6]
    wait_until(has_fetched)
    prefetch.expect([8])
    wait_until(lambda: done == [1, 5, 6, 8])


def test_the_cache_of_the_user_follows_the_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "rectiflow" / "shards"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "rectiflow" / "shards"
