"""A manifest may be a stranger's: what it says is checked before any of it is used."""

import dataclasses
import json

import pytest

from rectiflow.bench.stores import random_store
from rectiflow.data.manifest import MANIFEST, ArraySpec, Manifest, json_hash
from rectiflow.errors import DataError

ARRAYS = {
    "latent": ArraySpec(shape=(2, 2, 2), dtype="float32"),
    "log_variance": ArraySpec(shape=(2, 2, 2), dtype="float16"),
    "t5": ArraySpec(shape=(3, 4), dtype="float16"),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest") / "store"
    random_store(folder, ARRAYS, 4, 2)
    return (folder / MANIFEST).read_bytes()


def forged(content, change):
    """The manifest with something else in it and a checksum that fits."""
    values = json.loads(content)
    change(values)
    own = {field.name: values[field.name] for field in dataclasses.fields(Manifest)}
    values["checksum"] = json_hash(own)
    return (json.dumps(values, indent=2) + "\n").encode()


def test_a_manifest_is_read_as_it_was_written(content):
    assert Manifest.parse(forged(content, lambda values: None), "m").content() == content


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "samples/../../x", "a\\b", "", "a//b", ".hidden", "a\n"]
)
def test_no_path_leads_out_of_the_store(content, path):
    def change(values):
        values["shards"][0]["samples"]["path"] = path

    with pytest.raises(DataError, match="m is damaged: a path must stay inside the store, found"):
        Manifest.parse(forged(content, change), "m")


@pytest.mark.parametrize("sha256", ["../" * 21 + "x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_no_checksum_leads_out_of_the_cache(content, sha256):
    def change(values):
        values["shards"][1]["texts"]["sha256"] = sha256

    with pytest.raises(DataError, match="m is damaged: a SHA-256 has 64 digits 0-9a-f, found"):
        Manifest.parse(forged(content, change), "m")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("shards", 0, "samples", "path"), 3),
        (("shards", 0, "samples", "sha256"), None),
        (("shards", 0, "samples", "num_bytes"), -1),
        (("shards", 0, "samples", "num_bytes"), "9"),
        (("shards", 0, "num_records"), "2"),
        (("shards", 0, "num_texts"), True),
        (("arrays", "t5", "dtype"), "object"),
        (("arrays", "t5", "shape"), [3, -4]),
        (("arrays", "t5", "shape"), []),
        (("encoders", "scaling_factor"), float("nan")),
        (("quarantine", "too small"), "many"),
        (("size_px",), None),
        (("captions",), []),
        (("captions",), [1]),
        (("shards", 0), []),
        (("left_out",), {"path": "x"}),
    ],
)
def test_what_is_no_number_or_name_is_damage(content, place, value):
    def change(values):
        *above, last = place
        for name in above:
            values = values[name]
        values[last] = value

    with pytest.raises(DataError, match=r"m is damaged"):
        Manifest.parse(forged(content, change), "m")
