"""What the verbs say: results on stdout, notes and progress on stderr."""

import json
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLAIN_LINE_SECONDS = 10.0


def say(text: str) -> None:
    """Print a result."""
    print(text)


def note(text: str) -> None:
    """Print one line that is not part of the result."""
    print(one_line(text), file=sys.stderr)


def say_json(value: Any) -> None:
    """Print a result for machines; paths become strings, inf and nan are refused."""
    print(json.dumps(value, indent=2, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy or torch scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def example(command: str) -> str:
    """The end of a verb's help: one command that runs as it stands."""
    return f"\b\nExample:\n  {command}"  # \b keeps the line from being filled


def one_line(text: str) -> str:
    """Squeeze a message to a single line."""
    return " ".join(text.split())


def show_warnings_as_notes() -> None:
    """Print a warning as one line, without the place in the code that raised it."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # A library's deprecations are for its callers' authors, not for who runs the program.
        if not issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
            note(f"warning: {message}")

    warnings.showwarning = show


class Progress:
    """Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere.

    Call it as `progress(stage, done, total, facts)`. A new stage starts a new bar. It is a context
    manager, so that the terminal is restored whatever happens.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        self._task: Any = None
        self._first = 0
        self._started = self._printed = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(
        self, stage: str, done: int, total: int | None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Tell how far `stage` is; `total` is None while it is not known."""
        if stage != self._stage:
            self._close()
            self._open(stage, done, total)
        numbers = {k: v for k, v in (facts or {}).items() if isinstance(v, int | float)}
        text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, facts=text)
        else:
            self._print_line(done, total, text)

    def _open(self, stage: str, done: int, total: int | None) -> None:
        self._stage, self._first = stage, done
        self._started, self._printed = time.monotonic(), float("-inf")
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, facts="")
        self._bar.start()

    def _print_line(self, done: int, total: int | None, text: str) -> None:
        now = time.monotonic()
        if now - self._printed < PLAIN_LINE_SECONDS and done != total:
            return
        self._printed = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        pace = f"  {rate:.3g}/s" if rate > 0 else ""
        if pace and total is not None:
            pace += f"  {(total - done) / rate:.0f} s left"
        note(f"{self._stage} {done}/{'?' if total is None else total}{pace}  {text}")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        self._stage = ""
