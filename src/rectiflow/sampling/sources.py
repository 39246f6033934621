"""Where trained models lie: bundles by name, bundles and runs by folder, encoders inside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rectiflow.config import nearest
from rectiflow.interop.hub import locate
from rectiflow.runs import Run, read_json
from rectiflow.sampling.bundle import packaged_bundles, packaged_names
from rectiflow.sealing import MANIFEST, verify

DEFAULT_BUNDLE = "scenes-tiny"
RECIPE_KINDS = ("flow", "autoencoder", "encoders")


@dataclass(frozen=True)
class Source:
    """A trained model on disk.

    Args:
        kind: A sealed bundle, the folder of a run, or a model in another program's files.
        folder: Where it lies; a file, if the model is a single one.
    """

    kind: Literal["bundle", "run", "model"]
    folder: Path


def resolve_source(
    run: Path | None = None,
    bundle: str | None = None,
    model: str | None = None,
    *,
    download: bool = False,
) -> Source:
    """The model that a command line names: at most one of the three, else the default bundle.

    Args:
        run: A run's folder.
        bundle: A bundle's name or folder.
        model: A file or folder of another program's, or OWNER/NAME on the hub.
        download: Whether the hub may be asked for `model`.

    Raises:
        ValueError: If several are given.
        FileNotFoundError: If there is nothing of that name, or it is of the other kind.
        PermissionError: If the hub wants a licence accepted.
    """
    given = {"--run": run, "--bundle": bundle, "--model": model}
    told = [f"{option} {value}" for option, value in given.items() if value is not None]
    if len(told) > 1:
        raise ValueError(f"give only one of {', '.join(given)}, got {' and '.join(told)}")
    if model is not None:
        return Source("model", locate(model, download=download))
    source = find_source(bundle or DEFAULT_BUNDLE if run is None else run)
    wanted = "bundle" if run is None else "run"
    if source.kind != wanted:
        raise FileNotFoundError(
            f"{source.folder} is a {source.kind}, not a {wanted}: use --{source.kind}"
        )
    return source


def find_source(name_or_path: str | Path) -> Source:
    """A packaged bundle by name, or a bundle's or run's folder; a `Path` is always a folder.

    Raises:
        FileNotFoundError: If there is neither; the nearest name is suggested.
    """
    names = packaged_names()
    if isinstance(name_or_path, str) and name_or_path in names:
        return Source("bundle", packaged_bundles() / name_or_path)
    source = _source_in(Path(name_or_path))
    if source is not None:
        return source
    if Path(name_or_path).exists():
        raise FileNotFoundError(f"{name_or_path} is neither a bundle nor a run folder")
    hint = nearest(str(name_or_path), names)
    raise FileNotFoundError(f"no bundle or run {str(name_or_path)!r}; {hint}")


def _source_in(folder: Path) -> Source | None:
    if (folder / MANIFEST).is_file():
        return Source("bundle", folder)
    config = Run(folder).config_path
    # Model folders of other libraries have a config.json too, but no kind of recipe in it.
    is_run = config.is_file() and read_json(config).get("kind") in RECIPE_KINDS
    return Source("run", folder) if is_run else None


@dataclass(frozen=True)
class EncoderFolders:
    """Where encoders lie.

    Args:
        autoencoder: A diffusers `AutoencoderKL` folder.
        text: The folder that holds `text_encoder`, `tokenizer` and so on.
    """

    autoencoder: Path
    text: Path


def encoder_folders(encoders: Mapping[str, Any]) -> EncoderFolders:
    """Find the encoders of a recipe: `source`, of which `autoencoder` or `text` may replace a half.

    Each is a packaged bundle by name, or the folder of a bundle, of a run (its export, or the
    encoders it trains with) or of a diffusers SD3 pipeline. A bundle is verified.

    Raises:
        FileNotFoundError: If one is not there, or does not hold what is asked of it.
        DataError: If a bundle is damaged.
    """
    source = encoders.get("source")
    autoencoder = autoencoder_folder(encoders.get("autoencoder") or source)
    return EncoderFolders(autoencoder, _parts(encoders.get("text") or source, "text_encoder"))


def autoencoder_folder(name_or_path: str | None) -> Path:
    """Find one autoencoder, in any of the places where `encoder_folders` finds encoders.

    Raises:
        FileNotFoundError: If there is none.
        DataError: If a bundle is damaged.
    """
    folder = _parts(name_or_path, "vae")
    is_bare = not (folder / "vae").is_dir()  # the folder of an autoencoder and nothing else
    return folder if is_bare else folder / "vae"


def _parts(name_or_path: str | None, part: str) -> Path:
    """The folder that holds `part`, a subfolder; for "vae" also a bare autoencoder's folder."""
    if not name_or_path:
        raise ValueError("encoders.source must name a bundle, a run or a folder")
    folder = Path(name_or_path)
    if name_or_path in packaged_names() or _source_in(folder) is not None:
        source = find_source(name_or_path)
        folder = source.folder
        if source.kind == "bundle":
            verify(folder)
        elif (run := Run(folder)).config().get("kind") == "flow":
            return _parts_of_flow_run(run, part)
        else:
            folder = run.export
    if (folder / part).is_dir() or (part == "vae" and _is_autoencoder(folder)):
        return folder
    if not Path(name_or_path).exists() and not folder.exists():
        find_source(name_or_path)  # tells what is there
    raise FileNotFoundError(f"{folder} holds no {part}/; encoders.source needs one")


def _parts_of_flow_run(run: Run, part: str) -> Path:
    own = run.config()["encoders"]
    half = "autoencoder" if part == "vae" else "text"
    return _parts(own.get(half) or own.get("source"), part)


def _is_autoencoder(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == "AutoencoderKL"
