"""The hub is asked with permission only, and a refusal says what to do."""

import types
from fnmatch import fnmatch

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from rectiflow.cli.main import main
from rectiflow.interop.hub import locate
from tests.interop.networks import NORMED, network, write_diffusers


@pytest.fixture
def hub(monkeypatch):
    """A hub that does as it is told and remembers what it was asked."""
    state = types.SimpleNamespace(asked=[], answer=None)

    def fetch(*arguments, **options):
        state.asked.append((arguments, options))
        if isinstance(state.answer, Exception):
            raise state.answer
        return str(state.answer)

    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, fetch)
    return state


def refusal(kind, status):
    error = kind.__new__(kind)
    Exception.__init__(error, f"status {status}")
    error.response = types.SimpleNamespace(status_code=status)
    return error


def test_without_permission_nothing_is_fetched(hub, capsys, tmp_path):
    with pytest.raises(FileNotFoundError, match="give --download"):
        locate("stabilityai/stable-diffusion-3.5-medium", download=False)
    target = str(tmp_path / "x")
    assert main(["convert", "some/model", target, "--to", "diffusers"]) == 2
    assert "give --download" in capsys.readouterr().err
    assert hub.asked == []


def test_a_path_that_is_there_is_never_looked_up(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert str(locate("some/model", download=True)) == "some/model"
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["a/../b", "../b", "a/b/c", "model.safetensors", "models/m.safetensors", "/no/where"]
)
def test_what_is_no_name_of_a_repository_is_not_asked_for(hub, name):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        locate(name, download=True)
    assert hub.asked == []


def test_a_repository_is_fetched_as_a_folder_and_a_file_as_a_file(hub, tmp_path):
    hub.answer = tmp_path
    assert locate("some/model", download=True) == tmp_path
    ((repository,), options) = hub.asked.pop()
    assert repository == "some/model"
    names = [f"text_encoder_3/model.{end}" for end in ("safetensors", "bin", "py")]
    names += ["transformer/config.json", "tokenizer_3/spiece.model", "tokenizer/merges.txt"]
    names += [
        "text_encoder/model.fp16.safetensors",
        "text_encoder_3/model.fp16-00001-of-2.safetensors",
    ]
    names += ["text_encoder_3/model.safetensors.index.fp16.json"]
    names += ["LICENSE.md", "sd3.5_medium.safetensors", "transformer/a.safetensors.index.json"]

    def is_matched(name, kind):
        return any(fnmatch(name, pattern) for pattern in options[f"{kind}_patterns"])

    refused = {
        name for name in names if not is_matched(name, "allow") or is_matched(name, "ignore")
    }
    files = {"text_encoder_3/model.bin", "text_encoder_3/model.py", "sd3.5_medium.safetensors"}
    assert refused == files | {name for name in names if "fp16" in name}
    locate("some/model/split/a.safetensors", download=True)
    assert hub.asked == [(("some/model", "split/a.safetensors"), {})]


def test_the_fetched_folder_is_converted(hub, tmp_path):
    write_diffusers(tmp_path / "cache" / "transformer", network(NORMED))
    hub.answer = tmp_path / "cache"
    command = ["convert", "some/model", str(tmp_path / "x.safetensors"), "--to", "stability"]
    assert main([*command, "--download"]) == 0
    assert (tmp_path / "x.safetensors").is_file()


@pytest.mark.parametrize(
    ("kind", "status"), [(GatedRepoError, 403), (HfHubHTTPError, 401), (HfHubHTTPError, 403)]
)
def test_a_gated_repository_is_told_with_licence_and_token(hub, capsys, kind, status, tmp_path):
    hub.answer = refusal(kind, status)
    command = ["convert", "some/model", str(tmp_path / "x"), "--to", "diffusers", "--download"]
    assert main(command) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "accept its licence at https://huggingface.co/some/model" in told
    assert "HF_TOKEN" in told


def test_other_refusals_name_the_repository(hub):
    hub.answer = refusal(RepositoryNotFoundError, 404)
    with pytest.raises(FileNotFoundError, match="some/model cannot be fetched"):
        locate("some/model", download=True)
    hub.answer = LocalEntryNotFoundError("offline")
    with pytest.raises(FileNotFoundError, match="hub cannot be reached for some/model"):
        locate("some/model", download=True)


def test_a_connection_that_is_lost_on_the_way_is_told_in_one_line(hub, capsys, tmp_path):
    hub.answer = HTTPError("peer closed connection without sending the complete body")
    command = ["convert", "some/model", str(tmp_path / "x"), "--to", "diffusers", "--download"]
    assert main(command) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert "was lost while some/model was fetched" in told
    assert "the same command goes on" in told
