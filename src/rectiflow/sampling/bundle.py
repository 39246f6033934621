"""Bundles: a trained model as one folder, every file of it checksummed in `bundle.json`.

BUNDLE/bundle.json    format, recipe hash, SHA-256 of every other file
BUNDLE/config.json    the resolved recipe; also metrics.jsonl and result.json of its run
BUNDLE/mmdit/         config.json, model.safetensors; for another kind of network, its name
BUNDLE/vae/  text_encoder{,_2,_3}/  tokenizer{,_2,_3}/  image_encoder/

A run's `export/` has the same form.
"""

import shutil
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rectiflow.runs import Run, replacing_folder
from rectiflow.sealing import MANIFEST, seal, sha256, verify

FROM_THE_RUN = ("config.json", "metrics.jsonl", "result.json")
STORED_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def packaged_bundles() -> Path:
    """The folder of the bundles that ship with the package."""
    return Path(str(files("rectiflow"))) / "bundles"


def packaged_names() -> list[str]:
    """Names of the bundles that ship with the package."""
    return sorted(manifest.parent.name for manifest in packaged_bundles().glob(f"*/{MANIFEST}"))


def assemble(run_folder: Path, out: Path, stored_as: str = "fp16") -> Path:
    """Make a bundle from a finished run: its export with the weights in `stored_as`.

    The bundle appears whole or not at all.

    Args:
        run_folder: A run whose `export/` holds the model.
        out: The bundle's folder; must not exist or be empty.
        stored_as: "fp16", "bf16" or "fp32".

    Raises:
        ValueError: If the type is unknown, `out` is taken, or a weight does not fit the type.
        FileNotFoundError: If the run has no export yet.
    """
    manifest = check_assembly(run_folder, out, stored_as)
    with replacing_folder(out) as partial:
        _fill(partial, Run(run_folder), manifest["files"], stored_as)
    return out


def check_assembly(run_folder: Path, out: Path, stored_as: str) -> dict[str, Any]:
    """Refuse what `assemble` refuses before it copies anything; writes nothing.

    Returns:
        The manifest of the run's export.
    """
    if stored_as not in STORED_TYPES:
        raise ValueError(f"weights are stored as one of {list(STORED_TYPES)}, got {stored_as!r}")
    run = Run(run_folder)
    kind = run.config().get("kind")
    if kind != "flow":
        raise ValueError(f"{run_folder} trains {kind}; a bundle is made of a flow run")
    if not (run.export / MANIFEST).is_file():
        raise FileNotFoundError(f"{run.export} holds no exported model; let the run finish first")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"the bundle's folder must be empty, {out} is not")
    return verify(run.export)


def _fill(folder: Path, run: Run, names: Iterable[str], stored_as: str) -> None:
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            _store_weights(run.export / name, target, STORED_TYPES[stored_as])
        else:
            shutil.copyfile(run.export / name, target)
    for name in FROM_THE_RUN:
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    facts = {"recipe": run.config().get("name", run.folder.name), "stored_as": stored_as}
    seal(folder, {**facts, "recipe_hash": sha256(folder / "config.json")})


def _store_weights(source: Path, target: Path, dtype: torch.dtype) -> None:
    weights = load_file(source)
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            weights[name] = tensor.to(dtype)
            if not torch.isfinite(weights[name]).all():
                raise ValueError(f"{name} of {source} does not fit {dtype}; store as bf16 or fp32")
    save_file(weights, target, metadata={"format": "pt"})  # transformers looks for this entry
