import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch

from rectiflow.data.draws import Draws
from rectiflow.data.manifest import MANIFEST, Manifest
from rectiflow.data.store import Store
from rectiflow.data.stored import StoreSource
from rectiflow.errors import DataError
from rectiflow.preparation.prepare import Batching, prepare_store
from tests.preparation.fakes import SHAPES, FakeRecords, fake_encoders, pixels, text_state

NUM = 90
BATCHING = Batching(batch_size=8, records_per_shard=32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of three shards; record 40 is missing from the second."""
    folder = tmp_path_factory.mktemp("made") / "store"
    return prepare_store(FakeRecords(NUM, bad=frozenset({40})), fake_encoders(), folder, BATCHING)


@pytest.fixture
def store(made, tmp_path):
    """A copy to damage."""
    import shutil

    return Store.open(shutil.copytree(made.folder, tmp_path / "store"))


def index_of(row: int) -> int:
    return row if row < 40 else row + 1


def latent_of(index: int) -> np.ndarray:
    means = (pixels(index) / 127.5 - 1).reshape(2, 8, 2, 8, 3).mean(axis=(1, 3))
    return (means.transpose(2, 0, 1) - 0.25) * 2


def draws(positions: np.ndarray) -> Draws:
    return Draws(7, positions)


def test_rows_are_what_the_encoders_made(made):
    rows = np.array([88, 3, 3, 31, 32, 41])
    names = made.manifest.captions
    found = made.rows(rows, np.array([0, 1, 0, 1, 0, 1]))
    assert found["ids"] == [f"fake-{index_of(row)}" for row in rows]
    assert found["latent"].dtype == torch.float32
    np.testing.assert_allclose(found["latent"], [latent_of(index_of(r)) for r in rows], atol=1e-6)
    for name, shape in SHAPES.items():
        states = found["states"][name]
        assert states.dtype == torch.float16
        assert states.shape == (6, *shape)
        for row, number, state in zip(rows, [0, 1, 0, 1, 0, 1], states, strict=True):
            caption = made.captions([int(row)], names[number])[0]
            np.testing.assert_array_equal(state, text_state(caption, name).astype(np.float16))
    assert made.captions([41], "synthetic") == ["exactly thing 0"]  # 42 mod 7
    assert "log_variance" not in found


def test_the_log_variance_is_that_of_the_scaled_latent(made):
    rows = np.array([88, 3, 3, 41])
    found = made.rows(rows, with_log_variance=True)
    assert found["log_variance"].dtype == torch.float16
    # The fake's raw log variance is its raw mean - 3; both are what scale 2 and shift 0.25 leave.
    means = np.stack([latent_of(index_of(row)) for row in rows]) / 2 + 0.25
    expected = (means - 3 + 2 * np.log(2)).astype(np.float16)
    np.testing.assert_allclose(found["log_variance"].numpy(), expected, atol=2e-3)
    assert torch.equal(found["latent"], made.rows(rows)["latent"])


def test_a_caption_is_stored_once_per_shard(made):
    assert [shard.num_texts for shard in made.manifest.shards] == [
        12,
        12,
        12,
    ]  # 5 alt + 7 synthetic
    assert [shard.num_records for shard in made.manifest.shards] == [32, 31, 26]
    assert made.manifest.quarantine == {"damaged picture": 1}
    assert made.manifest.num_enlarged == 8  # every tenth; 40 is missing
    assert len(made) == NUM - 1


def test_the_manifest_says_what_and_by_which_encoders(made):
    values = json.loads((made.folder / MANIFEST).read_text())
    assert values["num_records"] == NUM - 1
    assert values["context_tokens"] == {"clip_l": 5, "clip_g": 5, "t5": 6}
    assert values["captions"] == ["alt", "synthetic"]
    assert values["encoders"]["shift_factor"] == 0.25
    assert values["encoders"]["scaling_factor"] == 2.0
    assert values["encoders"]["autoencoder"] == fake_encoders().autoencoder.identity()
    assert values["parent"]["kind"] == "fake"
    assert Manifest.read(made.folder) == made.manifest
    quarantined = (made.folder / "quarantine.jsonl").read_text().splitlines()
    expected = {"id": "fake-40", "reason": "damaged picture", "detail": "on purpose"}
    assert [json.loads(line) for line in quarantined] == [expected]


def test_shards_are_arrow_files_that_pyarrow_maps(made):
    with pa.memory_map(str(made.folder / "samples" / "00001.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.schema.field("latent").type == pa.list_(pa.float32(), 12)
    assert table.schema.field("latent").metadata == {b"shape": b"[3, 2, 2]"}
    assert table.schema.field("log_variance").type == pa.list_(pa.float16(), 12)
    assert table.schema.field("text_alt").type == pa.int32()
    assert table.num_rows == 31
    with pa.memory_map(str(made.folder / "texts" / "00001.arrow")) as source:
        texts = pa.ipc.open_file(source).read_all()
    assert texts.schema.field("t5").type == pa.list_(pa.float16(), 6 * 24)
    row = table.column("text_synthetic")[5].as_py()
    assert texts.column("caption")[row] == table.column("caption_synthetic")[5]


def test_pyarrow_leaves_out_or_widens_half_floats_for_programs_that_know_none(made):
    with pa.memory_map(str(made.folder / "samples" / "00001.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    halves = [f.name for f in table.schema if "halffloat" in str(f.type)]
    assert halves == ["log_variance"]
    assert "halffloat" not in str(table.drop_columns(halves).schema)
    plain = [pa.field(f.name, pa.list_(pa.float32(), 12)) if f.name in halves else f
             for f in table.schema]  # fmt: skip
    widened = table.cast(pa.schema(plain))
    assert "halffloat" not in str(widened.schema)
    first = int(made.shard_sizes()[0])
    row = made.rows([first + 5], with_log_variance=True)["log_variance"][0]
    values = np.asarray(widened.column("log_variance")[5].as_py()).reshape(3, 2, 2)
    np.testing.assert_array_equal(values, row.numpy().astype(np.float64))


def test_datasets_loads_the_store(made, tmp_path):
    from datasets import load_dataset

    def load(kind):
        files = [str(file) for file in sorted((made.folder / kind).glob("*.arrow"))]
        return load_dataset(
            "arrow", data_files=files, split="train", cache_dir=str(tmp_path / kind)
        )

    samples = load("samples")
    assert samples["id"] == made.ids(range(len(made)))
    latent = np.asarray(samples[50]["latent"], np.float32).reshape(3, 2, 2)
    np.testing.assert_array_equal(latent, made.rows([50])["latent"][0])
    spread = np.asarray(samples[50]["log_variance"], np.float16).reshape(3, 2, 2)
    row = made.rows([50], with_log_variance=True)
    np.testing.assert_array_equal(spread, row["log_variance"][0])
    texts = load("texts").with_format("numpy")
    expected = text_state(texts[20]["caption"], "pooled_l").astype(np.float16)
    np.testing.assert_array_equal(texts[20]["pooled_l"], expected)


def test_rows_outside_are_refused(made):
    for rows in ([-1], [0, NUM - 1]):
        with pytest.raises(IndexError, match=r"rows are 0..88, got"):
            made.rows(rows)
    with pytest.raises(ValueError, match="caption must be one of"):
        made.captions([0], "caption")
    assert made.rows([])["latent"].shape == (0, 3, 2, 2)


def test_a_store_pickles_as_its_path(made):
    made.rows([0])
    copy = pickle.loads(pickle.dumps(made))
    assert torch.equal(copy.rows([5])["latent"], made.rows([5])["latent"])
    assert len(pickle.dumps(made)) < 1000


def flip(file, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 0x01
    file.write_bytes(bytes(content))


def test_a_flipped_byte_anywhere_is_found_by_verify(store):
    store.verify()
    file = store.folder / "texts" / "00002.arrow"
    flip(file, file.stat().st_size // 2)
    with pytest.raises(DataError, match=r"texts/00002.arrow is damaged: its checksum"):
        Store.open(store.folder).verify()


def test_a_shortened_or_missing_file_is_found_when_opening(store):
    file = store.folder / "samples" / "00001.arrow"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"samples/00001.arrow is damaged: \d+ bytes expected"):
        Store.open(store.folder)
    file.unlink()
    with pytest.raises(DataError, match=r"samples/00001.arrow is missing"):
        Store.open(store.folder)


def test_a_shard_that_is_no_arrow_file_any_more_is_named_when_read(store):
    file = store.folder / "samples" / "00000.arrow"
    file.write_bytes(b"\0" * file.stat().st_size)
    broken = Store.open(store.folder)
    assert broken.ids([40]) == ["fake-41"]  # the other shards still serve
    with pytest.raises(DataError, match=r"samples/00000.arrow is damaged"):
        broken.rows([0])


def test_flipped_bytes_never_read_outside_a_shard(store):
    rng = np.random.default_rng(0)
    file = store.folder / "samples" / "00000.arrow"
    whole, messages = file.read_bytes(), []
    for place in rng.integers(0, len(whole), 300):
        file.write_bytes(whole)
        flip(file, int(place))
        try:
            assert len(Store.open(store.folder).rows(range(32))["ids"]) == 32
        except DataError as error:
            messages.append(str(error))
    assert messages
    assert all("samples/00000.arrow" in message for message in messages)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"num_records": 32', '"num_records": 31'), ('"factor": 8', '"factor": 9'), ("{", "[")],
)
def test_a_changed_manifest_is_damaged(store, old, new):
    file = store.folder / MANIFEST
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        Store.open(store.folder)


def test_another_version_and_another_folder_are_no_store(store, tmp_path):
    file = store.folder / MANIFEST
    file.write_text(file.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(DataError, match=r"expected .* version 2, found .* version 1"):
        Store.open(store.folder)
    with pytest.raises(FileNotFoundError, match="is not an encoded store"):
        Store.open(tmp_path)


def test_other_encoders_are_refused_by_name(made):
    made.require_encoders(fake_encoders().stamp())
    with pytest.raises(ValueError, match=r"other encoders: it has \{'autoencoder': '\w{12}'\}"):
        made.require_encoders(fake_encoders(autoencoder="another").stamp())
    with pytest.raises(ValueError, match=r"other encoders: it has \{'text': "):
        made.require_encoders(fake_encoders(text="another").stamp())


def test_an_epoch_visits_every_row_once_in_another_order(made):
    source = StoreSource(made, seed=0, states=dict)
    assert source.num_samples == len(made)
    orders = []
    for epoch in range(2):
        positions = np.arange(len(made), dtype=np.int64) + epoch * len(made)
        orders.append(source.batch(positions, draws(positions))["ids"])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(made.ids(range(len(made))))
    assert orders[0] != orders[1]


def test_a_sample_does_not_depend_on_its_batch(made):
    source = StoreSource(made, seed=0, states=dict)
    positions = np.arange(20, dtype=np.int64)
    whole = source.batch(positions, draws(positions))
    for start, stop in ((0, 3), (3, 20)):
        part = source.batch(positions[start:stop], draws(positions[start:stop]))
        assert part["ids"] == whole["ids"][start:stop]
        assert torch.equal(part["latent"], whole["latent"][start:stop])
        for name, states in part["states"].items():
            assert torch.equal(states, whole["states"][name][start:stop])


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8, 1.0])
def test_the_share_of_synthetic_captions_is_a_setting(made, fraction):
    source = StoreSource(made, seed=0, states=dict, synthetic_fraction=fraction, shuffle=False)
    positions = np.arange(2000, dtype=np.int64)
    batch = source.batch(positions, draws(positions))
    rows = positions % len(made)
    captions = {name: made.captions(rows, name) for name in ("alt", "synthetic")}
    pooled = {
        text: torch.from_numpy(text_state(text, "pooled_l")).half()
        for text in {*captions["alt"], *captions["synthetic"]}
    }
    is_synthetic = np.array(
        [
            torch.equal(state, pooled[text])
            for state, text in zip(batch["states"]["pooled_l"], captions["synthetic"], strict=True)
        ]
    )
    is_alt = np.array(
        [
            torch.equal(state, pooled[text])
            for state, text in zip(batch["states"]["pooled_l"], captions["alt"], strict=True)
        ]
    )
    assert (is_alt ^ is_synthetic).all()
    # Four standard errors of a mean of 2000; none where the share is certain.
    assert abs(is_synthetic.mean() - fraction) <= 4 * (fraction * (1 - fraction) / 2000) ** 0.5


def test_batches_have_the_stored_types_and_states_the_form_asked_for(made):
    positions = np.arange(4, dtype=np.int64)
    source = StoreSource(made, seed=0, states=lambda **states: sorted(states))
    assert source.batch(positions, draws(positions))["states"] == sorted(SHAPES)
    batch = StoreSource(made, seed=0, states=dict).batch(positions, draws(positions))
    assert batch["latent"].dtype == torch.float32
    assert {states.dtype for states in batch["states"].values()} == {torch.float16}


def test_rows_restrict_a_source(made):
    rows = np.array([5, 80], dtype=np.int64)
    source = StoreSource(made, seed=0, states=dict, rows=rows)
    positions = np.arange(2, dtype=np.int64)
    assert sorted(source.batch(positions, draws(positions))["ids"]) == ["fake-5", "fake-81"]
    with pytest.raises(ValueError, match="num_samples must be >= 1"):
        StoreSource(made, seed=0, states=dict, rows=rows[:0])
    for wrong in ([5, 5], [80, 5], [-1, 5], [5, NUM - 1]):
        with pytest.raises(ValueError, match="rows must ascend from 0 to at most 88, got"):
            StoreSource(made, seed=0, states=dict, rows=np.array(wrong))
    with pytest.raises(ValueError, match=r"synthetic_fraction must be in \[0, 1\], got 1.5"):
        StoreSource(made, seed=0, states=dict, synthetic_fraction=1.5)
