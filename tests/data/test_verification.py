"""Damage of a store: any byte of any file, found and named."""

import numpy as np
import pytest

from rectiflow.data.manifest import MANIFEST
from rectiflow.data.store import QUARANTINE, Store
from rectiflow.data.verification import verify_store
from rectiflow.errors import DataError
from rectiflow.preparation.prepare import Batching, prepare_store
from tests.data.test_store import flip
from tests.preparation.fakes import FakeRecords, fake_encoders


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified") / "store"
    batching = Batching(batch_size=8, records_per_shard=8)
    source = FakeRecords(20, bad=frozenset({7}))
    return prepare_store(source, fake_encoders(), folder, batching).folder


def test_a_flipped_byte_of_any_file_is_found_and_its_file_named(store):
    files = [file for file in sorted(store.rglob("*")) if file.is_file()]
    assert len(files) == 2 * 3 + 2
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for place in {0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
            flip(file, place)
            name = file.relative_to(store).as_posix()
            if name == MANIFEST:
                with pytest.raises(DataError, match=MANIFEST):
                    verify_store(store)
            else:
                assert list(verify_store(store).damaged) == [name]
            file.write_bytes(whole)
    assert verify_store(store).damaged == {}


def test_all_damage_is_told_with_what_is_wrong(store):
    texts, quarantine = store / "texts" / "00001.arrow", store / QUARANTINE
    before = texts.read_bytes(), quarantine.read_bytes()
    texts.write_bytes(before[0][:-1])
    quarantine.unlink()
    seen = []
    found = verify_store(store, lambda *now: seen.append(now))
    assert found.damaged == {
        "texts/00001.arrow": "is damaged: its checksum does not fit the manifest",
        QUARANTINE: "is missing from the store",
    }
    assert seen[-1] == (sum(file.num_bytes for file in found.manifest.files),) * 2
    with pytest.raises(DataError, match=r"texts/00001.arrow is damaged: \d+ bytes expected"):
        Store.open(store)
    texts.write_bytes(before[0])
    with pytest.raises(DataError, match=r"quarantine.jsonl is missing from the store"):
        Store.open(store)
    quarantine.write_bytes(before[1])
    Store.open(store).verify()


def test_what_is_no_store_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an encoded store"):
        verify_store(tmp_path)
