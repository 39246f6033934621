import shutil
from pathlib import Path

import numpy as np
import pytest

from rectiflow.data.folder import FolderRecords
from rectiflow.data.scene_records import VALIDATION_SEED, SceneRecords
from rectiflow.data.scenes import caption, make_scene, render
from rectiflow.preparation.prepare import Batching, prepare_store
from rectiflow.preparation.prepared import open_prepared, prepare_folder, prepare_scenes, split_rows
from rectiflow.preparation.reconstruction import psnr, reconstruction_psnr, reconstruction_warning
from tests.preparation.fakes import FakeAutoencoder, FakeRecords, fake_encoders

# Photographs that lie inside scikit-image; of other shapes and kinds: grey, RGBA, 2848 px wide.
PHOTOGRAPHS = {
    "astronaut.png": "an astronaut before a flag",
    "coffee.png": "a cup of coffee on a table",
    "chelsea.png": "a tabby cat, looking",
    "rocket.jpg": "a rocket at its start",
    "camera.png": "a man with a camera, grey",
    "logo.png": "a round logo, transparent",
    "hubble_deep_field.jpg": "galaxies",
    "moon.png": "the surface of the moon",
    "coins.png": "coins",
    "horse.png": "the silhouette of a horse",
    "motorcycle_left.png": "a motorcycle in a garage",
    "retina.jpg": "a retina",
}


@pytest.fixture
def photographs(tmp_path):
    skimage = pytest.importorskip("skimage")
    inside = Path(skimage.__file__).parent / "data"
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, text in PHOTOGRAPHS.items():
        shutil.copyfile(inside / name, folder / name)
        (folder / name).with_suffix(".txt").write_text(text)
    return folder


def test_photographs_become_a_store_and_the_broken_ones_are_counted(photographs, tmp_path):
    whole = (photographs / "coffee.png").read_bytes()
    (photographs / "torn.png").write_bytes(whole[: len(whole) // 3])
    (photographs / "torn.txt").write_text("half a cup")
    shutil.copyfile(photographs / "moon.png", photographs / "untold.png")
    prepared = prepare_folder(
        fake_encoders(),
        tmp_path / "store",
        path=photographs,
        size_px=64,
        num_validation=3,
        batching=Batching(batch_size=5),
    )
    store = prepared.training
    assert store.ids(range(len(store))) == sorted(PHOTOGRAPHS)
    assert store.manifest.quarantine == {"no caption": 1, "damaged picture": 1}
    row = sorted(PHOTOGRAPHS).index("coffee.png")
    assert store.captions([row], "caption") == [PHOTOGRAPHS["coffee.png"]]
    # 400 x 600 px: the mean colour of the centre square survives cutting, scaling and encoding.
    from skimage import data

    centre = data.coffee()[:, 100:500].reshape(-1, 3).mean(axis=0) / 127.5 - 1
    latent = store.rows([row])["latent"][0].mean(dim=(1, 2)).numpy()
    np.testing.assert_allclose(latent / 2 + 0.25, centre, atol=0.01)
    rows = [*prepared.training_rows, *prepared.validation_rows]
    assert sorted(rows) == list(range(12))
    assert len(prepared.validation_rows) == 1  # a tenth at most, one at least


def test_photographs_of_scikit_learn_are_read_through_metadata(tmp_path):
    sklearn = pytest.importorskip("sklearn")
    inside = Path(sklearn.__file__).parent / "datasets" / "images"
    for name in ("china.jpg", "flower.jpg"):
        shutil.copyfile(inside / name, tmp_path / name)
    (tmp_path / "metadata.csv").write_text(
        "file_name,text\nchina.jpg,a temple\nflower.jpg,a dahlia"
    )
    records = FolderRecords(tmp_path, 96)
    assert [records.record(i).captions["caption"] for i in range(2)] == ["a temple", "a dahlia"]
    assert records.record(0).load().image.shape == (96, 96, 3)
    assert 10 < reconstruction_psnr(records, FakeAutoencoder()) < 24  # a mean of 8 x 8 pixels


def test_scenes_are_encoded_with_both_captions_and_apart_from_the_held_out(tmp_path):
    seen = []
    prepared = prepare_scenes(
        fake_encoders(),
        tmp_path,
        seed=5,
        num_scenes=30,
        num_validation=7,
        size_px=64,
        on_progress=lambda *now: seen.append(now),
    )
    assert (len(prepared.training), len(prepared.validation)) == (30, 7)
    assert seen == [(7, 37), (37, 37)]
    scene = make_scene(5, 29)
    assert prepared.training.ids([29]) == ["scene-5-29"]
    for name in ("alt", "synthetic"):
        assert prepared.training.captions([29], name) == [getattr(caption(scene), name)]
    expected = (render(scene, 64) / 127.5 - 1).reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    latent = prepared.training.rows([29])["latent"][0].permute(1, 2, 0)
    np.testing.assert_allclose(latent / 2 + 0.25, expected, atol=1e-5)
    assert prepared.validation.ids([0]) == [f"scene-{VALIDATION_SEED}-0"]
    assert prepared.training_rows is None
    assert prepared.validation_rows.tolist() == list(range(7))


def test_the_seed_of_the_held_out_scenes_is_refused_for_training(tmp_path):
    with pytest.raises(ValueError, match="are held out for validation; choose another seed"):
        prepare_scenes(
            fake_encoders(),
            tmp_path,
            seed=VALIDATION_SEED,
            num_scenes=3,
            num_validation=1,
            size_px=64,
        )


def test_descriptions_of_scenes_differ_in_every_argument():
    base = SceneRecords(0, 20, 32).description()
    others = [
        SceneRecords(1, 20, 32),
        SceneRecords(0, 21, 32),
        SceneRecords(0, 20, 64),
        SceneRecords(0, 20, 32, first=1),
    ]
    assert all(other.description() != base for other in others)
    assert SceneRecords(0, 20, 32).description() == base
    with pytest.raises(ValueError, match="num_scenes must be >= 1, got 0"):
        SceneRecords(0, 0, 32)


def test_held_out_rows_are_chosen_by_id_and_stay_when_pictures_are_added(tmp_path):
    small = prepare_store(FakeRecords(200), fake_encoders(), tmp_path / "small")
    training, validation = split_rows(small, 10)
    assert len(validation) == 10
    assert sorted([*training, *validation]) == list(range(200))
    assert np.ptp(validation) > 60  # spread, not the last ones
    large = prepare_store(FakeRecords(210), fake_encoders(), tmp_path / "large")
    added = set(large.ids(split_rows(large, 10)[1])) - set(small.ids(validation))
    assert all(int(id.split("-")[1]) >= 200 for id in added)


def test_a_tenth_at_most_is_held_out_and_one_at_least(tmp_path):
    for num, expected in ((1, 1), (2, 1), (35, 3)):
        store = prepare_store(FakeRecords(num), fake_encoders(), tmp_path / str(num))
        training, validation = split_rows(store, 16)
        assert len(validation) == expected
        assert len(training) == max(1, num - expected)


def test_a_store_is_opened_with_rows_held_out_of_it_or_of_another(tmp_path):
    store = prepare_store(FakeRecords(200), fake_encoders(), tmp_path / "store")
    other = prepare_store(FakeRecords(30, name="other"), fake_encoders(), tmp_path / "other")
    asked = {"path": store.folder, "size_px": 16, "num_validation": 10}
    alone = open_prepared(fake_encoders(), validation=None, **asked)
    for found, expected in zip(
        (alone.training_rows, alone.validation_rows), split_rows(store, 10), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    apart = open_prepared(fake_encoders(), validation=other.folder, **asked)
    assert apart.training_rows is None
    assert len(apart.training) == 200
    held_out = apart.validation.ids(apart.validation_rows)
    assert len(set(held_out)) == 10
    assert all(id.startswith("other-") for id in held_out)


def test_a_store_of_other_encoders_or_another_size_is_refused(tmp_path):
    store = prepare_store(FakeRecords(9), fake_encoders(), tmp_path / "store")
    asked = {"path": store.folder, "validation": None, "num_validation": 2}
    with pytest.raises(ValueError, match=r"data.size_px must be 16, that of the pictures in"):
        open_prepared(fake_encoders(), size_px=64, **asked)
    with pytest.raises(ValueError, match="was encoded with other encoders"):
        open_prepared(fake_encoders(text="new"), size_px=16, **asked)
    with pytest.raises(FileNotFoundError, match="is not an encoded store"):
        open_prepared(fake_encoders(), size_px=16, **{**asked, "path": tmp_path})


def test_psnr_is_its_closed_form():
    assert psnr(0.04) == pytest.approx(20.0)  # 10 log10(4 / 0.04)
    assert psnr(0.0) == 100.0


def test_reconstruction_is_measured_on_usable_pictures_only():
    class Exact:
        def encode(self, image):
            return image

        def decode(self, latent):
            return latent + 0.02 * (latent < 0.5) - 0.02 * (latent >= 0.5)  # stays within [-1, 1]

    source = FakeRecords(40, bad=frozenset({0, 2}))
    assert reconstruction_psnr(source, Exact()) == pytest.approx(40.0, abs=1e-3)
    assert len(source.loaded) == 18
    assert max(source.loaded) > 30  # spread over the source
    source = FakeRecords(31)
    reconstruction_psnr(source, Exact())
    assert source.loaded == list(range(0, 31, 2))
    with pytest.raises(ValueError, match="no picture can be used"):
        reconstruction_psnr(FakeRecords(3, bad=frozenset(range(3))), Exact())


def test_a_poor_reconstruction_names_the_remedy():
    assert reconstruction_warning(24.0, "/p") is None
    warning = reconstruction_warning(17.36, "/my/pictures")
    assert warning is not None
    assert "17.4 dB" in warning
    assert "data.path=/my/pictures" in warning
