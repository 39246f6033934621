"""Models that are named by their place on the Hugging Face hub; fetched with permission only."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The name of a repository does not end as a file's does: FOLDER/FILE.safetensors is a path.
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.safetensors)(/[\w./-]+\.safetensors)?")
_WITH_WEIGHTS = ("transformer", "vae", "text_encoder*")
_WANTED = (
    "model_index.json",
    "LICENSE*",
    *(f"{part}/*.{end}" for part in _WITH_WEIGHTS for end in ("json", "safetensors")),
    "scheduler/*.json",
    *(f"tokenizer*/*.{end}" for end in ("json", "txt", "model")),
)
_TWICE = ("*.fp16*",)  # the same weights in half precision, beside the full ones


def locate(name: str, *, download: bool) -> Path:
    """A file or folder on this machine, or else, with permission, one fetched from the hub.

    Args:
        name: A path, OWNER/NAME for the diffusers folder of a repository, or
            OWNER/NAME/FILE.safetensors for one file of it.
        download: Whether the hub may be asked. Without, nothing is ever fetched.

    Raises:
        FileNotFoundError: If there is no such path, and no permission or no such repository.
        PermissionError: If the repository wants its licence accepted, or a token.
        ConnectionError: If the connection is lost on the way.
    """
    path = Path(name)
    if path.exists():
        return path
    if not _HUB_ID.fullmatch(name) or ".." in name:
        raise FileNotFoundError(f"there is no file or folder {name}")
    if not download:
        raise FileNotFoundError(
            f"there is no file or folder {name}; to fetch it from the Hugging Face hub, "
            "give --download"
        )
    owner, repository, *file = name.split("/", 2)
    repository = f"{owner}/{repository}"
    return _fetch_file(repository, file[0]) if file else fetch(repository, _WANTED)


def fetch(repository: str, patterns: Sequence[str]) -> Path:
    """A folder with the files of a repository that match the patterns, from the hub or its cache.

    Raises:
        ConnectionError: If the connection is lost on the way.
        FileNotFoundError: If the hub has no such repository, or cannot be reached.
        PermissionError: If the repository wants its licence accepted, or a token.
    """
    from huggingface_hub import snapshot_download

    with _explaining(repository):
        wanted = {"allow_patterns": list(patterns), "ignore_patterns": list(_TWICE)}
        return Path(snapshot_download(repository, **wanted))


def _fetch_file(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _explaining(repository):
        return Path(hf_hub_download(repository, file))


@contextmanager
def _explaining(repository: str) -> Iterator[None]:
    """Tell what to do where the hub refuses or cannot be reached."""
    # HTTPError is the base of all failures of the client that the hub's library happens to use.
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalEntryNotFoundError,
    )

    try:
        yield
    except HfHubHTTPError as error:
        raise _explained(repository, error) from error
    except HTTPError as error:
        raise ConnectionError(
            f"the connection to the hub was lost while {repository} was fetched ({error}); "
            "the same command goes on where it stopped"
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"the hub cannot be reached for {repository}: {error}") from error


def _explained(repository: str, error: Any) -> OSError:
    """What to do about a refusal of the hub."""
    from huggingface_hub.errors import GatedRepoError

    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return PermissionError(
            f"{repository} is gated or private (status {status}): accept its licence at {page} "
            "with your account, make a token with read access, and give it in HF_TOKEN or with "
            "`hf auth login`"
        )
    return FileNotFoundError(f"{repository} cannot be fetched from {page}: {error}")
