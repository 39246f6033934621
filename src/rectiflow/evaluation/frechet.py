"""Frechet distance between the features of two sets of pictures (arXiv:1706.08500, Eq. 6).

Each set is summed up by the mean m and the covariance C of its features; the distance is that of
Gaussians with these moments,

    d^2 = |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr (C_b^1/2 C_a C_b^1/2)^1/2,

the squared 2-Wasserstein distance, in squared units of the features. Both roots are of symmetric
matrices, so they come from eigenvalues; the general matrix root that the formula is often written
with loses digits and may turn complex. Everything is in float64.

A value means nothing without the numbers of pictures on both sides: with fewer, it is higher.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Features = Float[np.ndarray, "pictures channels"]


class FewPicturesWarning(UserWarning):
    """There are too few pictures for a covariance of full rank; the message has the numbers."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What a Frechet distance knows of a set of pictures.

    Args:
        num: Pictures.
        mean: Of their features, float64.
        scatter: Sum over the pictures of the outer products of deviations from the mean, float64.
    """

    num: int
    mean: Float[np.ndarray, " channels"]
    scatter: Float[np.ndarray, "channels channels"]

    @classmethod
    def of(
        cls, features: Features, counts: Int[np.ndarray, " pictures"] | None = None
    ) -> "Moments":
        """Those of one batch.

        Args:
            features: Not normalised: their lengths are part of what is compared.
            counts: How often each picture is in the set; once by default.

        Raises:
            ValueError: If there is no picture, or a feature is not finite.
        """
        values = np.asarray(features, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("features must be finite, got inf or nan")
        weights = None if counts is None else counts.astype(np.float64)
        num = len(values) if counts is None else int(counts.sum())
        if num < 1:
            raise ValueError("moments need at least one picture, got none")
        mean = np.average(values, axis=0, weights=weights)
        deviations = values - mean
        if weights is not None:
            deviations *= np.sqrt(weights)[:, None]
        return cls(num, mean, deviations.T @ deviations)

    def joined(self, other: "Moments") -> "Moments":
        """Those of both sets together; exact but for rounding, in whatever order sets are joined.

        Raises:
            ValueError: If the features are of different widths.
        """
        _check_widths(self, other)
        num = self.num + other.num
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.num * other.num / num)
        mean = self.mean + step * (other.num / num)
        return Moments(num, mean, self.scatter + other.scatter + between)

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.mean)

    @property
    def covariance(self) -> Float[np.ndarray, "channels channels"]:
        """Unbiased: the scatter over num - 1.

        Raises:
            ValueError: If there is a single picture.
        """
        if self.num < 2:
            raise ValueError(f"a covariance needs at least 2 pictures, got {self.num}")
        return self.scatter / (self.num - 1)


def stream_moments(batches: Iterable[Float[np.ndarray, "_ channels"]]) -> Moments:
    """Moments of all pictures of a stream, of which one batch at a time is held.

    Raises:
        ValueError: If the stream is empty, or batches are of different widths.
    """
    total = None
    for batch in batches:
        moments = Moments.of(batch)
        total = moments if total is None else total.joined(moments)
    if total is None:
        raise ValueError("moments need at least one picture, got none")
    return total


def frechet_distance(pictures: Moments, reference: Moments) -> float:
    """The distance d^2 of the module's formula; symmetric, 0 for equal moments.

    Warns with the numbers where a side has no more pictures than features: its covariance is
    singular then, and the distance says more of the number than of the pictures.

    Raises:
        ValueError: If the features are of different widths, or a side has less than 2 pictures.
    """
    warn_if_few(pictures.num, reference.num, reference.width)
    return _distance(pictures, reference, _root(reference.covariance))


def bootstrap_frechet(
    features: Features, reference: Moments, counts: Int[np.ndarray, "replicates pictures"]
) -> list[float]:
    """Distances of resampled pictures, the reference held fixed.

    A replicate holds about 63 % of the pictures, some of them several times, so its distance lies
    above that of all pictures: read the spread and the order of such values, not their level.

    Args:
        features: Of the pictures.
        reference: Moments of the other side.
        counts: How often each replicate holds each picture (`rectiflow.evaluation.bootstrap`).

    Raises:
        ValueError: If the features are of different widths, or a side has less than 2 pictures.
    """
    root = _root(reference.covariance)
    return [_distance(Moments.of(features, row), reference, root) for row in counts]


def warn_if_few(num_pictures: int, num_reference: int, width: int) -> None:
    """Warn where a covariance of `width` features cannot have full rank on one of the sides."""
    if min(num_pictures, num_reference) <= width:
        warnings.warn(
            FewPicturesWarning(
                f"a Frechet distance of {width} features needs more than {width} pictures on each "
                f"side, got {num_pictures} and {num_reference} of reference; the value is biased "
                "upwards and compares only with values of the same numbers"
            ),
            stacklevel=3,
        )


def _distance(
    pictures: Moments, reference: Moments, reference_root: Float[np.ndarray, "channels channels"]
) -> float:
    _check_widths(pictures, reference)
    apart = np.square(pictures.mean - reference.mean).sum()
    covariance = pictures.covariance
    spread = np.trace(covariance) + np.trace(reference.covariance)
    shared = np.linalg.eigvalsh(reference_root @ covariance @ reference_root)
    common = np.sqrt(np.maximum(shared, 0)).sum()
    return max(float(apart + spread - 2 * common), 0.0)  # rounding may leave it just below


def _root(
    covariance: Float[np.ndarray, "channels channels"],
) -> Float[np.ndarray, "channels channels"]:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _check_widths(first: Moments, second: Moments) -> None:
    if first.width != second.width:
        raise ValueError(
            f"features must be of one width on both sides, got {first.width} and {second.width}"
        )
