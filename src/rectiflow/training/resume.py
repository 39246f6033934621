"""Starting points of a run: its own folder, if it is the same run, or the weights of another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rectiflow import config, runs
from rectiflow.checkpoints import list_checkpoints, load_group, newest_intact
from rectiflow.errors import DataError
from rectiflow.nn.settings import KINDS
from rectiflow.runs import Run
from rectiflow.training.ema import copy_into, named_tensors
from rectiflow.training.recipe import Recipe, recipe_from_dict

# Where a bundle, or the export of a run, keeps the networks that a recipe may train.
_BUNDLED = (
    *(f"{kind}/model.safetensors" for kind in KINDS),
    "vae/diffusion_pytorch_model.safetensors",
)


def claim(run: Run, recipe: Recipe) -> None:
    """Make the folder this recipe's run, or check that it already is.

    Call it before any long work. Settings that do not enter what is computed (cadence, logging,
    workers, device) may differ from those of the folder and replace them; before the first step
    any may.

    Raises:
        ValueError: If the folder belongs to another recipe, or a setting of a begun run differs.
    """
    check_claim(run.create(), recipe)
    runs.write_bytes(run.config_path, config.to_json(recipe).encode())


def check_claim(run: Run, recipe: Recipe) -> None:
    """Refuse what `claim` refuses; writes nothing, and the folder need not exist."""
    has_begun = bool(list_checkpoints(run)) or run.metrics_path.exists()
    if run.config_path.exists():
        values = run.config()
        _refuse_another_recipe(run, recipe, values)
        # A mistake found before the first step, such as a wrong path, may be mended.
        if has_begun:
            _refuse_other_settings(run, recipe, values)
    elif has_begun:
        raise DataError(f"{run.config_path} is missing, but the folder holds a run; restore it")


def _refuse_another_recipe(run: Run, recipe: Recipe, values: Mapping[str, Any]) -> None:
    for name in ("kind", "name"):
        if values.get(name) != getattr(recipe, name):
            raise ValueError(
                f"{run.folder} is a run of another recipe: its {name} is {values.get(name)!r}, "
                f"this one's is {getattr(recipe, name)!r}; choose another run folder"
            )


def _refuse_other_settings(run: Run, recipe: Recipe, values: Mapping[str, Any]) -> None:
    try:
        before = recipe_from_dict(values)
    except ValueError as error:
        raise DataError(f"{run.config_path} is damaged: {error}") from error
    old = {path: value for path, value, is_free in config.leaves(before) if not is_free}
    new = {path: value for path, value, is_free in config.leaves(recipe) if not is_free}
    changed = [path for path in {**new, **old} if old.get(path) != new.get(path)]
    if changed:
        listed = ", ".join(f"{p} was {old.get(p)!r}, now {new.get(p)!r}" for p in changed)
        raise ValueError(
            f"{run.folder} cannot resume with other settings: {listed}; give the old ones, or "
            f"start from its weights with another run folder and "
            f"--set training.init_from={run.folder}"
        )


def load_initial(model: nn.Module, source: str) -> None:
    """Copy the weights of a run (averaged), a bundle or a safetensors file into `model`.

    Raises:
        FileNotFoundError: If there is nothing at `source`.
        ValueError: If its weights are those of another model; the first difference is named.
    """
    targets = named_tensors(model)
    found = [_fit_prefix(weights, targets) for weights in _weights(Path(source))]
    # A bundle holds several networks: that whose names fit, else the first, to name a difference.
    fitting = [weights for weights in found if weights.keys() == targets.keys()]
    copy_into(targets, (fitting or found)[0], source)


def _weights(path: Path) -> list[Mapping[str, Tensor]]:
    if path.is_file():
        return [_read(path)]
    if not path.is_dir():
        raise FileNotFoundError(f"training.init_from: no run, bundle or file at {path}")
    last = newest_intact(Run(path), "ema")
    if last is not None:
        return [load_group(last, "ema")]
    for folder in (path, Run(path).export):
        if found := [folder / name for name in _BUNDLED if (folder / name).is_file()]:
            return [_read(file) for file in found]
    raise FileNotFoundError(f"training.init_from: {path} holds no checkpoint and no weights")


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file, or is damaged: {error}") from error


def _fit_prefix(weights: Mapping[str, Any], targets: Mapping[str, Any]) -> Mapping[str, Any]:
    """A network stored alone has names without the attribute that holds it in our model."""
    prefixes = {name.partition(".")[0] + "." for name in targets}
    if len(prefixes) == 1 and not weights.keys() & targets.keys():
        return {prefixes.copy().pop() + name: tensor for name, tensor in weights.items()}
    return weights
