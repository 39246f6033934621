import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections import namedtuple

import numpy as np
import pytest

from rectiflow import runs
from rectiflow.data.store import Store
from rectiflow.data.store_files import LocalFiles
from rectiflow.errors import DataError, DiskFullError
from rectiflow.preparation.prepare import Batching, prepare_store, summary
from tests.preparation.fakes import FakeRecords, fake_encoders

BATCHING = Batching(batch_size=8, records_per_shard=32, num_threads=2)


def contents(folder) -> dict[str, str]:
    """Checksum of every file of a store by its path."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_finished_store_is_all_that_remains(tmp_path):
    store = prepare_store(FakeRecords(40), fake_encoders(), tmp_path / "store", BATCHING)
    store.verify()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert sorted(contents(store.folder)) == [
        "manifest.json",
        "quarantine.jsonl",
        "samples/00000.arrow",
        "samples/00001.arrow",
        "texts/00000.arrow",
        "texts/00001.arrow",
    ]


def test_each_caption_of_a_shard_is_encoded_once(tmp_path):
    encoders = fake_encoders()
    prepare_store(FakeRecords(64), encoders, tmp_path / "store", BATCHING)
    asked = [caption for call in encoders.text.calls for caption in call if caption]
    assert len(asked) == 2 * 12  # 5 alt and 7 synthetic captions in each of two shards
    assert max(len(call) for call in encoders.text.calls) == 8


def test_progress_counts_up_to_all_records_and_restarts_where_it_was(tmp_path):
    seen = []
    prepare_store(
        FakeRecords(90),
        fake_encoders(),
        tmp_path / "store",
        BATCHING,
        lambda *now: seen.append(now),
    )
    assert seen[0] == (8, 90)
    assert seen[-1] == (90, 90)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_existing_store_is_opened_and_nothing_is_encoded_again(tmp_path):
    first = prepare_store(FakeRecords(40), fake_encoders(), tmp_path / "store", BATCHING)
    before = contents(first.folder)
    encoders, source = fake_encoders(), FakeRecords(40)
    again = prepare_store(source, encoders, tmp_path / "store", Batching(batch_size=4))
    assert encoders.autoencoder.num_pictures == 0
    assert source.loaded == []
    assert contents(again.folder) == before


def test_a_store_of_something_else_is_never_overwritten(tmp_path):
    folder = tmp_path / "store"
    before = contents(prepare_store(FakeRecords(40), fake_encoders(), folder, BATCHING).folder)
    with pytest.raises(ValueError, match=r"holds a store of something else \(other source\)"):
        prepare_store(FakeRecords(41), fake_encoders(), folder, BATCHING)
    with pytest.raises(ValueError, match="was encoded with other encoders"):
        prepare_store(FakeRecords(40), fake_encoders(text="new"), folder, BATCHING)
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"mine is in the way: it is not empty"):
        prepare_store(FakeRecords(40), fake_encoders(), tmp_path / "mine", BATCHING)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


class Interrupted(FakeRecords):
    """Stops the process's work, once, when record `at` is loaded."""

    def __init__(self, num, at, error):
        super().__init__(num)
        self.at, self.error = at, error

    def _load(self, index):
        if index == self.at:
            raise self.error
        return super()._load(index)


def test_an_interrupted_preparation_goes_on_and_gives_the_same_bytes(tmp_path):
    whole = prepare_store(FakeRecords(90), fake_encoders(), tmp_path / "whole", BATCHING)
    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        prepare_store(Interrupted(90, 70, KeyboardInterrupt()), fake_encoders(), folder, BATCHING)
    assert not folder.exists()
    left = tmp_path / "store.partial" / "samples" / ".00002.arrow.99.partial"
    left.write_bytes(b"cut short by a kill")
    source, seen = FakeRecords(90), []
    prepare_store(source, fake_encoders(), folder, BATCHING, lambda *now: seen.append(now))
    assert sorted(source.loaded) == list(range(64, 90))
    assert seen[0] == (32, 90)
    assert contents(folder) == contents(whole.folder)


@pytest.mark.parametrize("kind", ["samples", "texts", "progress"])
def test_a_lost_file_of_an_interrupted_preparation_is_made_again(tmp_path, kind):
    whole = prepare_store(FakeRecords(90), fake_encoders(), tmp_path / "whole", BATCHING)
    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        prepare_store(Interrupted(90, 70, KeyboardInterrupt()), fake_encoders(), folder, BATCHING)
    next((tmp_path / "store.partial" / kind).glob("00000.*")).unlink()
    source = FakeRecords(90)
    prepare_store(source, fake_encoders(), folder, BATCHING)
    assert sorted(source.loaded) == [*range(32), *range(64, 90)]
    assert contents(folder) == contents(whole.folder)


def test_an_interrupted_preparation_of_something_else_starts_over(tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        prepare_store(Interrupted(90, 70, KeyboardInterrupt()), fake_encoders(), folder, BATCHING)
    store = prepare_store(FakeRecords(90), fake_encoders(text="new"), folder, BATCHING)
    other = prepare_store(FakeRecords(90), fake_encoders(text="new"), tmp_path / "new", BATCHING)
    assert contents(store.folder) == contents(other.folder)


PATHS = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize("is_there", [False, True])
def test_a_kill_just_before_the_last_rename_costs_nothing(tmp_path, monkeypatch, is_there):
    folder = tmp_path / "store"
    monkeypatch.setattr("rectiflow.preparation.writing.publish", _killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_store(FakeRecords(40), fake_encoders(), folder, BATCHING)
    assert not folder.exists()
    (folder.with_name("store.partial") / "plan.json").unlink()  # the first step of publishing
    if is_there:
        folder.mkdir()
    encoders = fake_encoders()
    prepare_store(FakeRecords(40), encoders, folder, BATCHING).verify()
    assert encoders.autoencoder.num_pictures == 0
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def _killed(folder):
    raise KeyboardInterrupt


def test_a_full_disk_is_one_clear_error_and_the_work_waits(tmp_path, monkeypatch):
    folder, sync, files = tmp_path / "store", runs.sync, []

    def full(path):
        files.append(path)
        if len(files) > 10:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        sync(path)

    monkeypatch.setattr(runs, "sync", full)
    with pytest.raises(DiskFullError, match=r"is full; what was encoded so far waits") as caught:
        prepare_store(FakeRecords(90), fake_encoders(), folder, BATCHING)
    assert "\n" not in str(caught.value)
    assert not folder.exists()
    assert not list(tmp_path.rglob(".*.partial"))
    monkeypatch.undo()
    source = FakeRecords(90)
    prepare_store(source, fake_encoders(), folder, BATCHING).verify()
    assert 0 < len(source.loaded) < 90


def test_a_disk_that_will_be_full_is_noticed_after_the_first_shard(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1e9, 1e9, 2000))
    source = FakeRecords(90)
    with pytest.raises(DiskFullError, match=r"the other 58 records takes about 0.00 GB and"):
        prepare_store(source, fake_encoders(), tmp_path / "store", BATCHING)
    assert len(source.loaded) == 32


def test_bad_records_are_counted_and_their_neighbours_kept(tmp_path):
    bad = frozenset({0, 5, *range(32, 64), 89})  # a whole shard among them
    store = prepare_store(FakeRecords(90, bad=bad), fake_encoders(), tmp_path / "store", BATCHING)
    kept = [index for index in range(90) if index not in bad]
    assert store.ids(range(len(store))) == [f"fake-{index}" for index in kept]
    assert [shard.num_records for shard in store.manifest.shards] == [30, 0, 25]
    assert store.manifest.quarantine == {"damaged picture": 35}
    assert len((store.folder / "quarantine.jsonl").read_text().splitlines()) == 35
    line = summary(store)
    assert line.startswith("55 records encoded; 35 quarantined (damaged picture: 35), listed in ")
    assert line.endswith("quarantine.jsonl; 5 enlarged to 16 px")  # 10, 20, 30, 70, 80


def test_no_usable_record_is_the_callers_mistake_and_leaves_nothing(tmp_path):
    source = FakeRecords(3, bad=frozenset(range(3)))
    expected = r"none of 3 records can be used \(damaged picture: 3\); first, fake-0: on purpose"
    with pytest.raises(ValueError, match=expected):
        prepare_store(source, fake_encoders(), tmp_path / "store", BATCHING)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_whose_latent_is_not_finite_is_quarantined(tmp_path):
    class Poisoned(FakeRecords):
        def _load(self, index):
            loaded = super()._load(index)
            if index == 3:
                loaded.image[0, 0] = (0, 255, 0)
            return loaded

    store = prepare_store(Poisoned(9), fake_encoders(), tmp_path / "store", BATCHING)
    assert store.manifest.quarantine == {"latent is not finite": 1}
    assert store.ids(range(8)) == [f"fake-{index}" for index in range(9) if index != 3]


def test_text_states_that_overflow_half_precision_are_refused(tmp_path):
    class Loud(FakeRecords):
        def record(self, index):
            record = super().record(index)
            record.captions["alt"] = "an overflow"
            return record

    with pytest.raises(
        ValueError, match=r"in half precision, clip_l of 'an overflow' is not; change"
    ):
        prepare_store(Loud(9), fake_encoders(), tmp_path / "store", BATCHING)


def test_captions_that_were_cut_are_counted_and_other_warnings_passed_on(tmp_path):
    class Long(FakeRecords):
        def record(self, index):
            record = super().record(index)
            record.captions["alt"] = f"a very long caption {index % 6}"
            return record

    encoders = fake_encoders()
    store = prepare_store(Long(20), encoders, tmp_path / "store", BATCHING)
    assert store.manifest.num_cut == 6
    assert summary(store).endswith("; 6 captions cut to what the text encoders hold")

    class Loud(type(encoders.text)):
        def encode(self, prompts):
            warnings.warn("something else", stacklevel=2)
            return super().encode(prompts)

    loud = dataclasses.replace(encoders, text=Loud())
    with pytest.warns(UserWarning, match="something else"):
        prepare_store(Long(20), loud, tmp_path / "other", BATCHING)


def test_shards_are_shorter_where_records_are_large(tmp_path):
    # Latents of 4 bytes, and the states of two captions of 2 bytes.
    num_states = 5 * 8 + 5 * 12 + 6 * 24 + 8 + 12
    record = 12 * 4 + 2 * num_states * 2
    batching = Batching(batch_size=8, max_shard_bytes=10 * record + record // 2)
    store = prepare_store(FakeRecords(25), fake_encoders(), tmp_path / "store", batching)
    assert [shard.num_records for shard in store.manifest.shards] == [10, 10, 5]


def test_a_damaged_store_is_reported_and_not_silently_made_again(tmp_path):
    store = prepare_store(FakeRecords(40), fake_encoders(), tmp_path / "store", BATCHING)
    (store.folder / "texts" / "00000.arrow").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"texts/00000.arrow is damaged: \d+ bytes .* 0 found; remove .*store and"
    ):
        prepare_store(FakeRecords(40), fake_encoders(), tmp_path / "store", BATCHING)


def test_sizes_that_the_autoencoder_cannot_take_are_refused(tmp_path):
    source = FakeRecords(4)
    source.size_px = 20
    with pytest.raises(ValueError, match="size_px must be a multiple of 8, got 20"):
        prepare_store(source, fake_encoders(), tmp_path / "store")


@pytest.mark.parametrize(
    "name", ["batch_size", "records_per_shard", "max_shard_bytes", "num_threads"]
)
def test_batching_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        Batching(**{name: 0})


def test_the_number_of_threads_changes_nothing(tmp_path):
    for threads in (1, 3):
        batching = Batching(batch_size=8, records_per_shard=32, num_threads=threads)
        prepare_store(FakeRecords(50), fake_encoders(), tmp_path / str(threads), batching)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_reading_a_batch_of_64_touches_only_what_it_needs(tmp_path):
    store = prepare_store(FakeRecords(90), fake_encoders(), tmp_path / "store", BATCHING)
    (store.folder / "texts" / "00002.arrow").unlink()
    store = Store(LocalFiles(store.folder), store.manifest)
    assert len(store.rows(np.arange(64) % 64)["ids"]) == 64
    assert json.loads((store.folder / "manifest.json").read_text())["num_records"] == 90
