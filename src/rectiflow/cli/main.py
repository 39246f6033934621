"""The program `rectiflow`: one verb each for the things the library does.

Exit codes: 0 done, 1 failure, 2 a mistake of the caller, told in one line on stderr.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from rectiflow.cli import (
    bench,
    bundle,
    convert,
    data,
    evaluate,
    model,
    plan,
    quickstart,
    runs,
    sample,
    study,
    train,
)
from rectiflow.cli.console import note, show_warnings_as_notes
from rectiflow.errors import FULL_DISK, DiskFullError, DivergenceError

app = typer.Typer(
    name="rectiflow",
    help="Train, sample, evaluate and scale rectified-flow text-to-image models.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: quick to show, easy to read in any terminal
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    quickstart,
    train,
    sample,
    evaluate,
    data,
    model,
    plan,
    runs,
    convert,
    bench,
    study,
    bundle,
):
    verb.register(app)

INTERRUPTED = 130
CALLERS_MISTAKES = (
    ValueError,  # DataError, a damaged file, is one too
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
CALLERS_ERRNOS = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)  # have no class of their own
FAILURES = (DivergenceError, ConnectionError)  # nobody's mistake; a line says all there is to say


def _print_version(wanted: bool) -> bool:
    if wanted:
        from rectiflow import __version__

        print(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a mistake too.")
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give the exit code; unexpected errors propagate, hence exit 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_warnings_as_notes()
    try:
        code = app(arguments, prog_name="rectiflow", standalone_mode=False) or 0
        sys.stdout.flush()  # here, where a reader that went away can be dealt with
        return code
    except typer.TyperException as error:
        note(f"rectiflow: {error.format_message()} (see rectiflow --help)")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except Exception as error:
        message = mistake(error)
        if "--debug" in arguments or (message is None and not isinstance(error, FAILURES)):
            raise
        note(f"rectiflow: {message or error}")
        return 1 if message is None else 2


def mistake(error: BaseException) -> str | None:
    """Tell what the caller must mend, or None if `error` is a failure of the program."""
    if isinstance(error, DiskFullError):
        return str(error)
    if is_disk_full(error):
        where = getattr(error, "filename", None)
        at = f" while writing {where}" if where else ""
        return f"the disk is full{at}; free some space and give the same command again"
    is_theirs = isinstance(error, CALLERS_MISTAKES)
    if isinstance(error, OSError) and (is_theirs or error.errno in CALLERS_ERRNOS):
        return str(error) if error.filename is None else f"{error.strerror}: {error.filename}"
    return str(error) if is_theirs else None


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, is a full disk or a full quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return True
        if "No space left on device" in str(error):  # libraries in Rust and C++ only have the text
            return True
        error = error.__cause__ or error.__context__
    return False


def _silence_stdout() -> None:
    # The reader (head, less) is gone; without this the interpreter complains again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
