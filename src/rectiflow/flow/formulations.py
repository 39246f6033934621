"""A formulation: path, prediction, time density and weight, under the name the paper gives it.

The names are those of SD3's study (arXiv:2403.03206, Table 1): `rf`, `rf/lognorm(0.00,1.00)`,
`edm(-1.20,1.20)`, `eps/linear`, `v/cos`. To add one, add an entry to `_FAMILIES` and to the tests.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from rectiflow.flow.densities import (
    CosMap,
    Density,
    HalfCauchy,
    LogitNormal,
    LogLogistic,
    LogNormal,
    Mode,
    Uniform,
)
from rectiflow.flow.loss import squared_error
from rectiflow.flow.paths import (
    Cosine,
    DdpmLinear,
    LdmLinear,
    Path,
    RectifiedFlow,
    Sample,
    Times,
    VarianceExploding,
)
from rectiflow.flow.predictions import (
    DataPrediction,
    EdmPrediction,
    NoisePrediction,
    Prediction,
    VelocityPrediction,
    VPrediction,
)
from rectiflow.flow.times import time_grid

Network = Callable[..., Tensor]  # output at (x, t, ...); what follows, as text, is handed through


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
        grid: The time grid that sampling takes unless told otherwise, a name in
            `rectiflow.flow.times.GRIDS`.
    """

    name: str
    path: Path
    prediction: Prediction
    density: Density
    weight: Callable[[Times], Times] = field(default=torch.ones_like)
    grid: str = "uniform"

    def output(self, network: Network, x: Sample, t: Times, *given: object) -> Sample:
        """What the network says of `x` and `t`, in the precision of `x`."""
        return network(*self.network_inputs(x, t), *given).to(x.dtype)

    def network_inputs(self, x: Sample, t: Times) -> tuple[Sample, Times]:
        """What the network is given: `x` and `t`, but for EDM c_in x and ln(sigma) / 4."""
        return self.prediction.network_inputs(self.path, x, t)

    def velocity(self, output: Sample, x: Sample, t: Times) -> Sample:
        """The velocity that a network's output at `x` and `t` implies."""
        return self.prediction.velocity(self.path, output, x, t)

    def field(self, network: Network) -> Network:
        """The velocity, at (x, t, ...), of a network: what solvers and guidance work with."""

        def velocity(x: Sample, t: Times, *given: object) -> Sample:
            return self.velocity(self.output(network, x, t, *given), x, t)

        return velocity

    def loss(self, output: Sample, data: Sample, noise: Sample, t: Times) -> Times:
        """Weighted squared error of each sample, shape (batch,), in float32.

        `output` is the network's at x = path.interpolate(data, noise, t).
        """
        target = self.prediction.target(self.path, data, noise, t)
        return self.weight(t) * squared_error(output, target)

    def velocity_error(self, output: Sample, data: Sample, noise: Sample, t: Times) -> Times:
        """Squared error of noise - data as the output implies them, shape (batch,).

        The loss of rectified flow, whatever was trained: x / alpha at an equal log SNR is the same
        on all paths, so at equal log SNRs it compares formulations. `output` is the network's at
        x = path.interpolate(data, noise, t).
        """
        t = self.path.clipped(t)
        x = self.path.interpolate(data, noise, t)
        velocity = self.velocity(output, x, t)
        implied_noise = self.path.noise_from_velocity(velocity, x, t)
        implied_data = self.path.data_from_velocity(velocity, x, t)
        return squared_error(implied_noise - implied_data, noise - data)

    def unified_weight(self, t: Times) -> Times:
        """The w_t with which this training is SD3's unified loss L_w (Sec. 2).

        L_w = -1/2 E[w_t log_snr'(t) |predicted noise - noise|^2] for uniform t. With the output
        p data + q noise, an error e of the noise is one of e (alpha q - sigma p) / alpha of it, so
        w_t = density weight (alpha q - sigma p)^2 sigma / (alpha (alpha sigma' - alpha' sigma)):
        t / (1 - t) for rf. As a function of the log SNR it does not depend on how time is counted.
        Times are strictly inside (0, 1): at the ends it may be infinite, or 0 / 0.
        """
        c = self.path.coefficients(t)
        p, q = self.prediction.mixture(c)
        determinant = c.alpha * q - c.sigma * p
        drawn = self.density.density(t) * self.weight(t)
        return drawn * determinant.square() * c.sigma / (c.alpha * c.wronskian)

    def level(self, u: Float[Tensor, "*levels"]) -> Float[Tensor, "*levels"]:
        """Our time for the paper's u in [0, 1]: the same, but a quantile for EDM (SD3 Eq. 14)."""
        return self.density.level(u)

    def times(
        self, num_steps: int, shift: float = 1.0, grid: str | None = None
    ) -> Float[Tensor, " times"]:
        """Times of a drawing, from the path's `max_time` to 0; see `time_grid`.

        Raises:
            ValueError: If a value is out of range, or the grid is for another path.
        """
        grid = grid or self.grid
        if grid == "karras" and not isinstance(self.path, VarianceExploding):
            raise ValueError(f"grid karras is one of EDM's noise levels, which {self.name} has not")
        return time_grid(num_steps, shift, grid, self.path.max_time)


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
    return Formulation(
        name=_named(stem, *numbers),
        path=family.path,
        prediction=family.prediction,
        density=density,
        grid=family.grid,
    )


@dataclass(frozen=True)
class _Family:
    path: Path
    prediction: Prediction
    density: Callable[..., Density]
    example: str
    grid: str = "uniform"

    @property
    def num_numbers(self) -> int:
        return self.example.count("(") + self.example.count(",")


def _rf(density: Callable[..., Density], example: str) -> _Family:
    return _Family(RectifiedFlow(), VelocityPrediction(), density, example)


def _edm(density: Callable[..., Density], example: str) -> _Family:
    return _Family(VarianceExploding(), EdmPrediction(), density, example, grid="karras")


_FAMILIES = {
    "rf": _rf(Uniform, "rf"),
    "rf/lognorm": _rf(LogitNormal, "rf/lognorm(0.00,1.00)"),
    "rf/mode": _rf(Mode, "rf/mode(1.29)"),
    "rf/cosmap": _rf(CosMap, "rf/cosmap"),
    "edm": _edm(LogNormal, "edm(-1.20,1.20)"),
    "edm/rf": _edm(LogLogistic, "edm/rf"),
    "edm/cos": _edm(HalfCauchy, "edm/cos"),
}
_PREDICTIONS = {
    "eps": NoisePrediction(),
    "v": VPrediction(),
    "data": DataPrediction(),  # not in the study
}
_SCHEDULES = {
    "linear": LdmLinear(),
    "cos": Cosine(),
    "ddpm": DdpmLinear(),  # not in the study
}
_FAMILIES |= {
    (name := f"{predicted}/{schedule}"): _Family(path, prediction, Uniform, name)
    for predicted, prediction in _PREDICTIONS.items()
    for schedule, path in _SCHEDULES.items()
}


def _numbers(text: str | None) -> list[float] | None:
    """The numbers between the parentheses; none is [], nonsense is None."""
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None


def _named(stem: str, *numbers: float) -> str:
    return stem + (f"({','.join(map(_two_decimals, numbers))})" if numbers else "")


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


def _grid_of(stem: str, first: tuple[float, ...], second: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(_named(stem, one, other) for one in first for other in second)


TABLE_1: tuple[str, ...] = (
    "rf/lognorm(0.00,1.00)",
    "rf/lognorm(1.00,0.60)",
    "rf/lognorm(0.50,0.60)",
    "rf/mode(1.29)",
    "rf/lognorm(0.50,1.00)",
    "eps/linear",
    "rf/mode(1.75)",
    "rf/cosmap",
    "edm(0.00,0.60)",
    "rf",
    "v/linear",
    "edm(0.60,1.20)",
    "v/cos",
    "edm/cos",
    "edm/rf",
    "edm(-1.20,1.20)",
)
"""The rows of Table 1, best first. eps/cos, the 17th kind of the study, is not among them."""

STUDY: tuple[str, ...] = (
    *("eps/linear", "v/linear", "eps/cos", "v/cos", "rf"),
    *(_named("rf/mode", s) for s in (-1.0, -0.54, -0.08, 0.38, 0.83, 1.0, 1.29, 1.75)),
    *_grid_of("rf/lognorm", (-1.0, -0.5, 0.0, 0.5, 1.0), (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)),
    "rf/cosmap",
    *_grid_of("edm", (-1.2, -0.6, 0.0, 0.6, 1.2), (0.6, 1.2, 1.8)),
    *("edm/rf", "edm/cos"),
)
"""The 61 formulations of the study (Sec. 5.1, App. B.3).

Unstated in the paper: how 30 and 15 pairs span the stated ranges. These grids hold every name in
its tables.
"""
