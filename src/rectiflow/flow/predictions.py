"""What a network's output means, and its one conversion to a velocity.

Solvers, guidance and likelihoods speak velocity only; a network may be trained to put out
something else. Each meaning is one class: a mixture of data and noise. The way to a velocity
follows from the mixture and the path.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from torch import Tensor

from rectiflow.flow.paths import Coefficients, Path, Sample, Times


class Prediction(ABC):
    """Meaning of a network's output on a path."""

    @abstractmethod
    def mixture(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        """(p, q), where the output should be p data + q noise."""

    @final
    def target(self, path: Path, data: Sample, noise: Sample, t: Times) -> Sample:
        """What the output should be."""
        p, q = self.mixture(path.coefficients_like(t, data))
        return p * data + q * noise

    def velocity(self, path: Path, output: Sample, x: Sample, t: Times) -> Sample:
        """The velocity at `x` that an output implies.

        x = alpha data + sigma noise and output = p data + q noise, solved for the two, and put into
        d_alpha data + d_sigma noise. Times are clipped to the ends of the path.
        """
        c = path.coefficients_like(path.clipped(t), x)
        p, q = self.mixture(c)
        determinant = c.alpha * q - c.sigma * p
        of_x, of_output = c.d_alpha * q - c.d_sigma * p, c.wronskian
        return of_x / determinant * x + of_output / determinant * output

    def network_inputs(self, path: Path, x: Sample, t: Times) -> tuple[Sample, Times]:
        """What the network is given for `x` and `t`: by default these."""
        return x, t


@dataclass(frozen=True)
class VelocityPrediction(Prediction):
    """The output is the velocity itself (SD3, rf)."""

    def mixture(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        return c.d_alpha, c.d_sigma

    def velocity(self, path: Path, output: Sample, x: Sample, t: Times) -> Sample:
        return output  # as it is, without rounding


@dataclass(frozen=True)
class NoisePrediction(Prediction):
    """The output is the noise (SD3, eps). Says nothing of the data where alpha is 0."""

    def mixture(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        return c.alpha.new_zeros(()), c.alpha.new_ones(())


@dataclass(frozen=True)
class DataPrediction(Prediction):
    """The output is the data. Says nothing of the noise where sigma is 0."""

    def mixture(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        return c.alpha.new_ones(()), c.alpha.new_zeros(())


@dataclass(frozen=True)
class VPrediction(Prediction):
    """The output is alpha noise - sigma data (SD3, v; arXiv:2202.00512, App. D).

    On a path that preserves the variance, it is the velocity for each radian of its angle.
    """

    def mixture(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        return -c.sigma, c.alpha


@dataclass(frozen=True)
class EdmPrediction(Prediction):
    """EDM's F, where data = c_skip x + c_out F(c_in x, ln(sigma) / 4) (arXiv:2206.00364, Eq. 7).

    EDM's weight 1 / c_out^2 on the error of the data is 1 on that of F. On a path with another
    alpha, x / alpha and sigma / alpha take the places of x and sigma.

    Args:
        data_std: EDM's sigma_data. The paper's is 0.5, and kept, though latents here have about 1:
            the network's input then has a standard deviation of 1 to 2.
    """

    data_std: float = 0.5

    def mixture(self, c: Coefficients) -> tuple[Tensor, Tensor]:
        scale = self._scale(c)
        return c.sigma / (self.data_std * scale), -self.data_std * c.alpha / scale

    def network_inputs(self, path: Path, x: Sample, t: Times) -> tuple[Sample, Times]:
        t = path.clipped(t)
        return x / self._scale(path.coefficients_like(t, x)), -path.log_snr(t) / 8

    def _scale(self, c: Coefficients) -> Tensor:
        """1 / c_in: standard deviation of x on data of `data_std`."""
        return (c.sigma.square() + (self.data_std * c.alpha).square()).sqrt()
