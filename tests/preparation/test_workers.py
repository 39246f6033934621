"""Several processes that encode one store: each record once, and the bytes of a single worker."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from rectiflow.errors import DiskFullError
from rectiflow.preparation.prepare import Batching, Share, encode_share, prepare_store
from rectiflow.preparation.writing import StoreWriter
from tests.preparation.fakes import FakeRecords, fake_encoders
from tests.preparation.test_prepare import PATHS, contents
from tests.preparation.workers import NUM, PER_SHARD

BATCHING = Batching(batch_size=8, records_per_shard=PER_SHARD)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All scenarios played, and the same store made by one process alone."""
    root = tmp_path_factory.mktemp("workers")
    command = [sys.executable, "-m", "tests.preparation.workers", str(root)]
    subprocess.run(command, env=os.environ | PATHS, check=True, timeout=120)
    source = FakeRecords(NUM, bad=frozenset({5, 40}))
    whole = contents(prepare_store(source, fake_encoders(), root / "alone", BATCHING).folder)

    def loaded(scenario, *workers):
        logs = [(root / f"{scenario}-{worker}.log").read_text() for worker in workers]
        return [int(line) for line in "".join(logs).split()]

    def told(scenario, worker):
        return json.loads((root / f"{scenario}-{worker}.json").read_text())

    assert {path.name for path in root.glob("*.partial*")} == {
        "resumed.partial",  # that of the killed alone, and its locks, which are free
        "resumed.partial.lock",
    }
    return SimpleNamespace(root=root, whole=whole, loaded=loaded, told=told)


def test_workers_at_once_share_the_records_and_make_the_same_bytes(done):
    assert contents(done.root / "together") == done.whole
    assert sorted(done.loaded("together", "a", "b", "c")) == list(range(NUM))
    busy = [worker for worker in "abc" if done.loaded("together", worker)]
    assert len(busy) >= 2
    for worker in "abc":
        assert done.told("together", worker) == {"records": NUM - 2}


def test_shares_make_their_shards_and_the_last_one_publishes(done):
    assert contents(done.root / "shares") == done.whole
    for number, worker in enumerate(("one", "two", "three")):
        mine = [i for i in range(NUM) if i // PER_SHARD % 3 == number]
        assert sorted(done.loaded("shares", worker)) == mine
    assert (done.root / "shares-absent").read_text() == "False"
    told = [done.told("shares", worker)["records"] for worker in ("one", "three", "two")]
    assert told == [None, None, NUM - 2]


def test_what_a_killed_worker_had_claimed_is_made_by_another(done):
    assert contents(done.root / "killed") == done.whole
    assert done.told("killed", "heir") == {"records": NUM - 2}
    by_heir, by_victim = done.loaded("killed", "heir"), set(done.loaded("killed", "victim"))
    assert len(by_heir) == len(set(by_heir))
    assert by_victim & set(by_heir)  # it was killed in the middle of a shard
    assert set(range(NUM)) - set(by_heir) <= by_victim


def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(done):
    assert not (done.root / "resumed").exists()
    source = FakeRecords(NUM, bad=frozenset({5, 40}))
    prepare_store(source, fake_encoders(), done.root / "resumed", BATCHING)
    assert set(source.loaded) <= set(range(2 * PER_SHARD, NUM))
    assert contents(done.root / "resumed") == done.whole
    assert not list(done.root.glob("*.partial*"))


def test_a_worker_of_another_plan_is_refused_and_disturbs_nobody(done):
    assert "is encoding something else into" in done.told("other", "second")["error"]
    assert contents(done.root / "other") == done.whole


def test_two_threads_of_a_process_do_not_encode_the_same_folder(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    class Waiting(FakeRecords):
        def _load(self, index):
            started.set()
            assert go_on.wait(10)
            return super()._load(index)

    first = threading.Thread(
        target=prepare_store, args=(Waiting(3), fake_encoders(), tmp_path / "store")
    )
    first.start()
    try:
        assert started.wait(10)
        with pytest.raises(ValueError, match=r"is encoding .*store already, in another thread"):
            prepare_store(FakeRecords(3), fake_encoders(), tmp_path / "store")
    finally:
        go_on.set()
        first.join()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_share_of_another_plan_leaves_the_shards_of_others_alone(tmp_path):
    folder, source = tmp_path / "store", FakeRecords(NUM)
    assert encode_share(source, fake_encoders(), folder, Share(1, 3), BATCHING) is None
    before = contents(tmp_path / "store.partial")
    with pytest.raises(ValueError, match=r"store.partial holds shards of something else"):
        encode_share(source, fake_encoders(text="new"), folder, Share(2, 3), BATCHING)
    assert contents(tmp_path / "store.partial") == before
    assert len(prepare_store(source, fake_encoders(), folder, BATCHING)) == NUM
    assert sorted(source.loaded) == list(range(NUM))


def test_room_is_asked_for_what_no_worker_has_made_yet(tmp_path, monkeypatch):
    folder, source = tmp_path / "store", FakeRecords(NUM)
    encode_share(source, fake_encoders(), folder, Share(1, 3), BATCHING)
    made = [path.stat().st_size for path in folder.with_name("store.partial").rglob("*.arrow")]
    free = 3.5 * sum(made) / 2  # of 6 shards 2 are made; another 3 are missing after the first
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert encode_share(source, fake_encoders(), folder, Share(2, 3), BATCHING) is None
    usage.free = 0.5 * sum(made) / 2
    with pytest.raises(DiskFullError, match="encoding the other 16 records takes about"):
        encode_share(source, fake_encoders(), folder, Share(3, 3), BATCHING)


def test_a_store_may_be_published_the_moment_its_last_shard_is_written(tmp_path, monkeypatch):
    """Another worker sees the last note before the worker that wrote it goes on."""
    folder, plain = tmp_path / "store", StoreWriter.write_shard

    def write_shard(self, number, indices, shard):
        plain(self, number, indices, shard)
        if number == NUM // PER_SHARD - 1:
            self.partial.rename(tmp_path / "elsewhere")
            monkeypatch.undo()

    monkeypatch.setattr(StoreWriter, "write_shard", write_shard)
    source = FakeRecords(NUM)
    assert encode_share(source, fake_encoders(), folder, None, BATCHING) is None
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_locks_that_a_kill_left_beside_a_store_go_when_it_is_used(tmp_path):
    folder = tmp_path / "store"
    prepare_store(FakeRecords(3), fake_encoders(), folder, BATCHING)
    (tmp_path / "store.partial.lock").touch()
    prepare_store(FakeRecords(3), fake_encoders(), folder, BATCHING)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    with pytest.raises(ValueError, match=r"store.partial.lock must have locks, .*none \(No locks"):
        prepare_store(FakeRecords(3), fake_encoders(), tmp_path / "store", BATCHING)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/2", "1/", "-1/2"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"a share is i/n with 1 <= i <= n, got"):
        Share.parse(text)


def test_a_share_is_read_as_it_is_written():
    assert Share.parse("2/8") == Share(2, 8)
