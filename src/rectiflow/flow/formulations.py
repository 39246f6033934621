"""A formulation: path, prediction, time density and weight, under the name the paper gives it.

The names are those of SD3's study (arXiv:2403.03206, Table 1): `rf`, `rf/lognorm(0.00,1.00)`,
`rf/mode(1.29)`, `rf/cosmap`. To add one, add an entry to `_FAMILIES` and a closed-form test.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rectiflow.flow.loss import squared_error
from rectiflow.flow.paths import Path, RectifiedFlow, Sample, Times
from rectiflow.flow.predictions import Prediction, VelocityPrediction
from rectiflow.flow.times import CosMap, Density, LogitNormal, Mode, Uniform


@dataclass(frozen=True, kw_only=True)
class Formulation:
    """How a network is trained, and how its output is read.

    Args:
        name: The paper's name, in canonical form; `formulation(name)` gives it back.
        path: Path between data and noise.
        prediction: What the network's output means.
        density: Law of the training times.
        weight: Factor on the squared error at time t; 1 by default (plain mean squared error of
            the prediction, times drawn from `density`).
    """

    name: str
    path: Path
    prediction: Prediction
    density: Density
    weight: Callable[[Times], Times] = field(default=torch.ones_like)

    def velocity(self, output: Sample, x: Sample, t: Times) -> Sample:
        """The velocity that a network's output at `x` and `t` implies."""
        return self.prediction.velocity(self.path, output, x, t)

    def loss(self, output: Sample, data: Sample, noise: Sample, t: Times) -> Times:
        """Weighted squared error of each sample, shape (batch,), in float32.

        `output` is the network's at x = path.interpolate(data, noise, t).
        """
        target = self.prediction.target(self.path, data, noise, t)
        return self.weight(t) * squared_error(output, target)


def formulation(name: str) -> Formulation:
    """The formulation of a name such as `rf/lognorm(0.00,1.00)`.

    Raises:
        ValueError: If the name is unknown (the nearest is proposed) or a number out of range.
    """
    match = re.fullmatch(r"\s*([a-z/]+)\s*(?:\(([^()]*)\))?\s*", name)
    stem, text = match.groups() if match else (name, None)
    family, numbers = _FAMILIES.get(stem), _numbers(text)
    if family is None or numbers is None or len(numbers) != family.num_numbers:
        raise ValueError(f"unknown formulation {name!r}; the nearest is {_nearest(name)!r}")
    try:
        density = family.density(*numbers)
    except ValueError as error:
        raise ValueError(f"formulation {name!r}: {error}") from None
    canonical = stem + (f"({','.join(map(_two_decimals, numbers))})" if numbers else "")
    return Formulation(
        name=canonical, path=RectifiedFlow(), prediction=VelocityPrediction(), density=density
    )


@dataclass(frozen=True)
class _Family:
    density: Callable[..., Density]
    num_numbers: int
    example: str


_FAMILIES = {
    "rf": _Family(Uniform, 0, "rf"),
    "rf/lognorm": _Family(LogitNormal, 2, "rf/lognorm(0.00,1.00)"),
    "rf/mode": _Family(Mode, 1, "rf/mode(1.29)"),
    "rf/cosmap": _Family(CosMap, 0, "rf/cosmap"),
}


def _numbers(text: str | None) -> list[float] | None:
    """The numbers between the parentheses; none is [], nonsense is None."""
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None


def _two_decimals(number: float) -> str:
    """Two decimals as in the paper's tables, more only where they would change the number."""
    number += 0.0  # -0.0 is 0
    short = f"{number:.2f}"
    return short if float(short) == number else repr(number)


def _nearest(name: str) -> str:
    """The known name most alike, numbers left aside."""
    stem = name.partition("(")[0].strip().lower()
    close = difflib.get_close_matches(stem, _FAMILIES, n=1, cutoff=0.0)
    return _FAMILIES[close[0]].example
