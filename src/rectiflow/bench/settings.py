"""What is measured, and how thoroughly."""

from dataclasses import dataclass
from pathlib import Path

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Choices of a call of `rectiflow bench`.

    Args:
        run: Run whose model is measured; None for `bundle`.
        bundle: Bundle whose model is measured, None for the packaged one.
        autoencoders: Runs, bundles or folders of autoencoders to compare; empty for that of the
            packaged bundle.
        assignments: Changes of the recipe scenes-tiny, each "section.field=value".
        depths: Of the networks of `model` and `train`.
        sizes_px: Sides of the pictures that `train` trains on, multiples of 16.
        batch_size: Samples of a step of `train`; None for a number that suits the device.
        with_fp8: Whether `train` also measures fp8, which takes a GPU.
        precisions: `fp32`, `bf16` or both, in which `model` computes.
        is_compiled: Whether the networks of `model` are compiled.
        device: Where `model` and `train` compute; None for the best there is.
        num_repeats: How often each thing is measured, None for a number that suits it.
        is_quick: A rough look with little work; its figures are held against no bar.

    Raises:
        ValueError: If `num_repeats`, `batch_size` or a depth is < 1, a size is no multiple of 16,
            a precision is unknown, or run and bundle are both given.
    """

    run: Path | None = None
    bundle: str | None = None
    autoencoders: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    depths: tuple[int, ...] = (12,)
    sizes_px: tuple[int, ...] = (256,)
    batch_size: int | None = None
    with_fp8: bool = False
    precisions: tuple[str, ...] = PRECISIONS
    is_compiled: bool = False
    device: str | None = None
    num_repeats: int | None = None
    is_quick: bool = False

    def __post_init__(self) -> None:
        if self.num_repeats is not None and self.num_repeats < 1:
            raise ValueError(f"repeats must be >= 1, got {self.num_repeats}")
        if min(self.depths, default=0) < 1:
            raise ValueError(f"depths must be >= 1, got {list(self.depths)}")
        if not self.sizes_px or any(size < 16 or size % 16 for size in self.sizes_px):
            raise ValueError(f"sizes must be multiples of 16, got {list(self.sizes_px)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch size must be >= 1, got {self.batch_size}")
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            names = " or ".join(PRECISIONS)
            raise ValueError(f"precisions must be {names}, got {list(self.precisions)}")
        if self.run is not None and self.bundle is not None:
            raise ValueError(f"give --run or --bundle, not both (got {self.run}, {self.bundle})")

    def repeats(self, usual: int) -> int:
        """How often to measure what is usually measured so often."""
        return self.num_repeats or (1 if self.is_quick else usual)

    def amount(self, usual: int, quick: int) -> int:
        """How much to do in one measurement."""
        return quick if self.is_quick else usual

    def model(self) -> list[str]:
        """The options that name the measured model on a command line."""
        if self.run is not None:
            return ["--run", str(self.run)]
        return [] if self.bundle is None else ["--bundle", self.bundle]
