"""What a network's output means, and its one conversion to a velocity.

Solvers, guidance and likelihoods speak velocity only; a network may be trained to put out
something else. Each meaning is one class, with its training target and its way to a velocity.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from rectiflow.flow.paths import Path, Sample, Times


class Prediction(ABC):
    """Meaning of a network's output on a path."""

    @abstractmethod
    def target(self, path: Path, data: Sample, noise: Sample, t: Times) -> Sample:
        """What the output should be."""

    @abstractmethod
    def velocity(self, path: Path, output: Sample, x: Sample, t: Times) -> Sample:
        """The velocity at `x` that an output implies."""


@dataclass(frozen=True)
class VelocityPrediction(Prediction):
    """The output is the velocity itself (SD3, rf)."""

    def target(self, path: Path, data: Sample, noise: Sample, t: Times) -> Sample:
        return path.velocity(data, noise, t)

    def velocity(self, path: Path, output: Sample, x: Sample, t: Times) -> Sample:
        return output
