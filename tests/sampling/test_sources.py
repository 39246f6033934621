import json
from pathlib import Path

import pytest

from rectiflow.errors import DataError
from rectiflow.sampling import sources
from rectiflow.sampling.sources import encoder_folders, find_source, resolve_source
from rectiflow.sealing import seal


def make_bundle(folder, *parts):
    for part in parts or ("vae", "text_encoder", "mmdit"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text("{}")
    seal(folder, {})
    return folder


def make_run(folder, kind="flow", **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"kind": kind, **config}))
    return folder


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "packaged_bundles", lambda: tmp_path / "packaged")
    monkeypatch.setattr(sources, "packaged_names", lambda: ["scenes-tiny"])
    return make_bundle(tmp_path / "packaged" / "scenes-tiny")


def test_the_default_is_the_packaged_bundle(packaged):
    source = resolve_source()
    assert (source.kind, source.folder) == ("bundle", packaged)


def test_a_packaged_name_wins_over_a_folder_of_that_name(packaged, tmp_path, monkeypatch):
    make_run(tmp_path / "scenes-tiny")
    monkeypatch.chdir(tmp_path)
    assert find_source("scenes-tiny").folder == packaged
    assert find_source("./scenes-tiny").kind == "run"


def test_a_run_may_have_the_name_of_a_packaged_bundle(packaged, tmp_path, monkeypatch):
    make_run(tmp_path / "scenes-tiny")
    monkeypatch.chdir(tmp_path)
    source = resolve_source(run=Path("scenes-tiny"))
    assert source.kind == "run"
    assert find_source(source.folder) == source


def test_runs_and_bundles_are_told_apart(packaged, tmp_path):
    run, bundle = make_run(tmp_path / "run"), make_bundle(tmp_path / "own")
    assert resolve_source(run=run).kind == "run"
    assert resolve_source(bundle=str(bundle)).kind == "bundle"
    with pytest.raises(FileNotFoundError, match="is a bundle, not a run: use --bundle"):
        resolve_source(run=bundle)
    with pytest.raises(FileNotFoundError, match="is a run, not a bundle: use --run"):
        resolve_source(bundle=str(run))
    with pytest.raises(ValueError, match=r"only one of .*got --run .* and --bundle scenes-tiny"):
        resolve_source(run=run, bundle="scenes-tiny")


def test_a_model_of_another_program_is_a_file_or_a_folder(packaged, tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    assert resolve_source(model=str(file)) == sources.Source("model", file)
    assert resolve_source(model=str(tmp_path)) == sources.Source("model", tmp_path)
    with pytest.raises(FileNotFoundError, match="give --download"):
        resolve_source(model="someone/something")
    with pytest.raises(ValueError, match="got --bundle scenes-tiny and --model m"):
        resolve_source(bundle="scenes-tiny", model="m")


def test_an_unknown_name_is_answered_with_the_nearest(packaged, tmp_path):
    with pytest.raises(FileNotFoundError, match="did you mean scenes-tiny"):
        find_source("scene-tiny")
    with pytest.raises(FileNotFoundError, match="neither a bundle nor a run"):
        find_source(tmp_path)


def test_encoders_come_from_a_bundle_or_half_and_half(packaged, tmp_path):
    both = encoder_folders({"source": "scenes-tiny", "autoencoder": None, "text": None})
    assert (both.autoencoder, both.text) == (packaged / "vae", packaged)
    trained = make_run(tmp_path / "ae", "autoencoder")
    make_bundle(trained / "export", "vae")
    mixed = encoder_folders({"source": "scenes-tiny", "autoencoder": str(trained)})
    assert (mixed.autoencoder, mixed.text) == (trained / "export" / "vae", packaged)


def test_encoders_of_a_flow_run_are_those_it_trains_with(packaged, tmp_path):
    run = make_run(tmp_path / "flow", encoders={"source": "scenes-tiny"})
    assert encoder_folders({"source": str(run)}).text == packaged


def test_a_bare_autoencoder_folder_is_one(packaged, tmp_path):
    vae = tmp_path / "my-vae"
    vae.mkdir()
    (vae / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert encoder_folders({"source": "scenes-tiny", "autoencoder": str(vae)}).autoencoder == vae


def test_a_source_without_the_encoders_is_refused_by_name(packaged, tmp_path):
    half = make_bundle(tmp_path / "half", "vae")
    with pytest.raises(FileNotFoundError, match="holds no text_encoder/"):
        encoder_folders({"source": str(half)})
    with pytest.raises(FileNotFoundError, match="no bundle or run 'nowhere'"):
        encoder_folders({"source": "nowhere"})


def test_damaged_encoders_are_refused(packaged):
    (packaged / "vae" / "config.json").write_text("{ }")
    with pytest.raises(DataError, match=r"vae/config\.json is damaged"):
        encoder_folders({"source": "scenes-tiny"})
