"""What the verbs say: results on stdout, notes and progress on stderr."""

import json
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectiflow.cli.status import Pace, status_text

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
    """Progress of long work: one status line on a terminal, a line every few seconds elsewhere.

    Call it as `progress(stage, done, total, facts)`. A new stage starts a new line. It is a context
    manager, so that the terminal is restored whatever happens.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        self._task: Any = None
        self._pace = Pace(0.0, 0)
        self._printed = 0.0
        self._has_ended = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(
        self, stage: str, done: int, total: int | None, facts: Mapping[str, Any] | None = None
    ) -> None:
        """Tell how far `stage` is; `total` is None while it is not known."""
        now = time.monotonic()
        if stage != self._stage:
            self._close()
            self._open(stage, done, total, now)
        self._pace.add(now, done)
        text = status_text(done, total, self._pace.per_second(now, done), facts)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=text)
        elif now - self._printed >= PLAIN_LINE_SECONDS or (done == total and not self._has_ended):
            self._printed, self._has_ended = now, done == total
            note(f"{self._stage} {text}")

    def _open(self, stage: str, done: int, total: int | None, now: float) -> None:
        self._stage = stage
        self._pace, self._printed = Pace(now, done), float("-inf")
        self._has_ended = False
        if sys.stderr.isatty():
            self._bar = status_bar(None)
            self._task = self._bar.add_task(stage, total=total, completed=done, text="")
            self._bar.start()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        self._stage = ""


def status_bar(console: Any) -> Any:
    """A bar and a text, on one line however narrow the terminal is.

    Args:
        console: Rich's, None for the terminal behind stderr.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    return Bar(
        BarColumn(bar_width=20),
        TextColumn(
            "{task.description} {task.fields[text]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
        console=console or Console(stderr=True),
        refresh_per_second=2,  # the cores are for the work
    )
