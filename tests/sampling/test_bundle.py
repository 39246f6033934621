import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from rectiflow.errors import DataError
from rectiflow.sampling.bundle import assemble, packaged_bundles, packaged_names
from rectiflow.sealing import own_checksum, seal, verify


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "mmdit").mkdir(parents=True)
    (folder / "mmdit" / "config.json").write_text('{"depth": 2}')
    save_file({"weight": torch.arange(6.0)}, folder / "mmdit" / "model.safetensors")
    seal(folder, {"kind": "flow"})
    return folder


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "export" / "mmdit").mkdir(parents=True)
    weights = {"weight": torch.tensor([1 / 3, 2.0]), "counter": torch.tensor([7])}
    save_file(weights, folder / "export" / "mmdit" / "model.safetensors")
    (folder / "export" / "vae").mkdir()
    (folder / "export" / "vae" / "config.json").write_text("{}")
    (folder / "config.json").write_text('{"kind": "flow", "name": "scenes-tiny"}')
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "result.json").write_text("{}")
    seal(folder / "export", {"kind": "flow"})
    return folder


def test_a_whole_bundle_is_accepted(bundle):
    manifest = verify(bundle)
    assert manifest["kind"] == "flow"
    assert set(manifest["files"]) == {"mmdit/config.json", "mmdit/model.safetensors"}


def test_every_flipped_bit_is_found_and_its_file_named(bundle):
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            broken = bytearray(whole)
            broken[at] ^= 1 << (at % 8)
            path.write_bytes(bytes(broken))
            with pytest.raises(DataError, match=path.name):
                verify(bundle)
        path.write_bytes(whole)
    verify(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "mmdit" / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        verify(bundle)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no bundle\.json"):
        verify(tmp_path)


def test_a_manifest_may_not_reach_outside_the_bundle(tmp_path, bundle):
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((bundle / "bundle.json").read_text())
    del manifest["manifest"]
    manifest["files"]["../secret"] = "0" * 64
    manifest["manifest"] = own_checksum(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="outside the bundle"):
        verify(bundle)


@pytest.mark.parametrize(
    ("stored_as", "dtype"),
    [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)],
)
def test_a_run_becomes_a_bundle_with_weights_in_the_type_asked_for(run, tmp_path, stored_as, dtype):
    out = assemble(run, tmp_path / "out", stored_as)
    verify(out)
    weights = load_file(out / "mmdit" / "model.safetensors")
    assert weights["weight"].dtype == dtype
    assert torch.equal(weights["weight"], torch.tensor([1 / 3, 2.0]).to(dtype))
    assert torch.equal(weights["counter"], torch.tensor([7]))  # whole numbers stay as they are
    for name in ("config.json", "metrics.jsonl", "result.json"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    assert (out / "vae" / "config.json").is_file()


def test_a_weight_that_half_precision_cannot_hold_is_refused(run, tmp_path):
    save_file({"weight": torch.tensor([1e6])}, run / "export" / "mmdit" / "model.safetensors")
    seal(run / "export", {})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"weight of .* does not fit torch\.float16"):
        assemble(run, tmp_path / "out", "fp16")
    assert sorted(tmp_path.iterdir()) == before  # nothing half made is in the way
    (tmp_path / "out").mkdir()
    verify(assemble(run, tmp_path / "out", "bf16"))


def test_a_bundle_never_overwrites(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ValueError, match="must be empty"):
        assemble(run, tmp_path / "out")
    with pytest.raises(ValueError, match="got 'int3'"):
        assemble(run, tmp_path / "new", "int3")


def test_an_unfinished_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "flow"}')
    with pytest.raises(FileNotFoundError, match="holds no exported model"):
        assemble(tmp_path, tmp_path / "out")


def test_a_run_of_another_kind_makes_no_bundle(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "autoencoder"}')
    with pytest.raises(ValueError, match="trains autoencoder; a bundle is made of a flow run"):
        assemble(tmp_path, tmp_path / "out")


def test_packaged_bundles_are_whole():
    assert "scenes-tiny" in packaged_names()
    for name in packaged_names():
        verify(packaged_bundles() / name)
