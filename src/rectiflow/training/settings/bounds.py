"""Bounds of settings; a refusal names the setting, the bound and the value. Imports nothing."""


def at_least(name: str, value: float, bound: float) -> None:
    """Refuse a value below the bound, and nan."""
    if not value >= bound:
        raise ValueError(f"{name} must be >= {bound}, got {value}")


def above(name: str, value: float, bound: float) -> None:
    """Refuse a value at the bound or below, and nan."""
    if not value > bound:
        raise ValueError(f"{name} must be > {bound}, got {value}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a value outside the closed interval, and nan."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value}")
