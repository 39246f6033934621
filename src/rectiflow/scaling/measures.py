"""What is measured of one run of the formulation study, and the file that keeps it.

Checked when it is built and when it is read, so that a ranking never meets half a measurement.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, get_args

from rectiflow.config import STRICT, from_dict, to_dict
from rectiflow.errors import DataError
from rectiflow.runs import read_json, write_bytes

MEASURES: Final = "measures.json"
PLAN: Final = "study.json"
DIGITS: Final = 5
"""Significant digits that bootstrap replicates are kept with."""

Weights = Literal["ema", "raw"]


class Setting(NamedTuple):
    """How pictures were drawn: one of the paper's control settings (arXiv:2403.03206, App. B.3).

    Args:
        weights: "ema" for the averaged weights, "raw" for those of the step itself.
        num_steps: Of Euler's method.
        guidance_scale: 1 is unguided.
    """

    weights: Weights
    num_steps: int
    guidance_scale: float

    def __str__(self) -> str:
        """For a reader: "ema, 25 steps, scale 5"."""
        return f"{self.weights}, {self.num_steps} steps, scale {self.guidance_scale:g}"


SAMPLERS: Final = ((50, 1.0), (50, 2.5), (50, 5.0), (5, 5.0), (10, 5.0), (25, 5.0))
"""The paper's six: (steps of Euler, guidance scale)."""

SETTINGS: Final = tuple(Setting(w, *sampler) for w in get_args(Weights) for sampler in SAMPLERS)
"""The twelve control settings of one data set; the paper has two data sets, hence 24."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """The image features that Frechet distances were taken on.

    Args:
        name: Of their encoder.
        width: Their number.
        num_reference: Pictures that the reference statistics were taken from.
        hash: Of those statistics; distances of runs with different ones must not be compared.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    width: int
    num_reference: int
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicates:
    """Both scores on resampled prompts.

    Args:
        clip: CLIP scores, one a replicate.
        frechet: Frechet distances; replicate b is of the same prompts in both lists, in every
            setting and in every run.

    Raises:
        ValueError: If the lists differ in length.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    clip: tuple[float, ...]
    frechet: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.clip) != len(self.frechet):
            raise ValueError(
                "bootstrap must hold as many CLIP scores as Frechet distances, "
                f"got {len(self.clip)} and {len(self.frechet)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What the pictures of one control setting are worth.

    Args:
        weights: See `Setting`.
        num_steps: See `Setting`.
        guidance_scale: See `Setting`.
        num_pictures: Drawn, one a prompt.
        clip: CLIP score, mean cosine of picture and prompt; more is better.
        frechet: Frechet distance to the reference pictures; less is better.
        bootstrap: Both on resampled prompts.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    weights: Weights
    num_steps: int
    guidance_scale: float
    num_pictures: int
    clip: float
    frechet: float
    bootstrap: Replicates

    @property
    def setting(self) -> Setting:
        """The control setting they belong to."""
        return Setting(self.weights, self.num_steps, self.guidance_scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """All that is measured of one run.

    Args:
        formulation: Its name, as the paper writes it.
        seed: Of the run.
        step: The one of least validation loss of the averaged weights, whose weights were sampled.
        num_steps: Of the whole training.
        diverged: Why training or sampling ended in no finite numbers; None if it did not. Losses
            and scores of a diverged run may be missing.
        val_loss_ema: Validation loss of the averaged weights at `step`, under the formulation's own
            target, mean over t = 1/8 ... 7/8.
        velocity_error_ema: The same error as a velocity on rectified flow's scale, which compares
            formulations.
        path_length: Lengths of sampling paths and what fewer steps lose, by name.
        scenes: Scenes score of pictures of the averaged weights.
        features: Those of the Frechet distances.
        settings: Scores by control setting, each setting at most once.

    Raises:
        ValueError: If numbers are out of range, a setting is there twice, replicates differ in
            number, or a run that did not diverge has no loss or no scores.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    formulation: str
    seed: int
    step: int
    num_steps: int
    diverged: str | None = None
    val_loss_ema: float | None = None
    velocity_error_ema: float | None = None
    path_length: dict[str, float] | None = None
    scenes: float | None = None
    features: Features | None = None
    settings: tuple[Scores, ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")
        if not 0 <= self.step <= self.num_steps:
            raise ValueError(
                f"step must lie between 0 and num_steps = {self.num_steps}, got {self.step}"
            )
        settings = [each.setting for each in self.settings]
        if len(set(settings)) < len(settings):
            raise ValueError(f"settings must hold each one once, got {settings}")
        counts = {len(each.bootstrap.clip) for each in self.settings}
        if len(counts) > 1:
            raise ValueError(f"settings must have equally many replicates, got {sorted(counts)}")
        if self.diverged is None and (self.val_loss_ema is None or not self.settings):
            raise ValueError("val_loss_ema and settings must be there unless the run diverged")
        if self.settings and self.features is None:
            raise ValueError("features must be named where there are Frechet distances")

    @property
    def num_replicates(self) -> int:
        """Bootstrap replicates of each setting; 0 without settings."""
        return len(self.settings[0].bootstrap.clip) if self.settings else 0

    def scores(self, setting: Setting) -> Scores | None:
        """Those of a control setting, None where it was not measured."""
        return next((each for each in self.settings if each.setting == setting), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The runs that a study is to have: every formulation with every seed.

    Args:
        formulations: Their names, in the order of the tables.
        seeds: Of the runs.

    Raises:
        ValueError: If either is empty or holds something twice.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    formulations: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("formulations", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be there, each once, got {list(values)}")

    @property
    def runs(self) -> tuple[tuple[str, int], ...]:
        """(formulation, seed) of every run, one seed after the other."""
        return tuple((name, seed) for seed in self.seeds for name in self.formulations)


def write_measures(folder: Path, measures: Measures) -> None:
    """Write the `measures.json` of a run's folder, atomically; replicates are rounded."""
    values = to_dict(measures)
    for each in values["settings"]:
        for name, replicates in each["bootstrap"].items():
            each["bootstrap"][name] = [float(f"{value:.{DIGITS}g}") for value in replicates]
    # On one line: most of it are replicates, and the folders are kept by the hundred.
    write_bytes(folder / MEASURES, (json.dumps(values, allow_nan=False) + "\n").encode())


def read_measures(folder: Path) -> Measures:
    """The measures of a run's folder.

    Raises:
        FileNotFoundError: If there are none.
        DataError: If the file is damaged.
    """
    return _read(Measures, folder / MEASURES)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the `study.json` of a study's folder, atomically."""
    write_bytes(folder / PLAN, (json.dumps(to_dict(plan)) + "\n").encode())


def read_plan(folder: Path) -> Plan:
    """The plan of a study's folder.

    Raises:
        FileNotFoundError: If there is none.
        DataError: If the file is damaged.
    """
    return _read(Plan, folder / PLAN)


def _read(cls: Any, path: Path) -> Any:
    values = read_json(path)
    try:
        return from_dict(cls, values)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
