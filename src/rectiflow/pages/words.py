"""Values as a person reads them: on pages, in tables, on the status line."""

from typing import Any


def duration(seconds: float) -> str:
    """A length of time: "4.2 s", "48 s", "5 min 03 s", "2 h 05 min", "3 d 04 h"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def shown(value: Any) -> str:
    """A value as a recipe would write it, whole numbers with their thousands apart."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "not set"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
