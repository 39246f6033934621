"""Train, sample, evaluate and scale rectified-flow text-to-image models.

    import rectiflow
    images = rectiflow.load("scenes-tiny").sample(["two red circles"], seed=7)

Names are resolved on first use (PEP 562), so importing the package loads nothing heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rectiflow.sampling.load import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from rectiflow.sampling.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
