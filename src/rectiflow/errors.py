"""What can go wrong that is neither a bug nor a wrong argument.

Mistakes of the caller are plain `ValueError`s. The command line turns these, `FileNotFoundError`
and the classes here into one line on stderr and exit code 2; `NonFiniteError`, and Python's
`ConnectionError` for a lost connection, into one line and exit code 1.
"""


class DataError(ValueError):
    """A damaged file; the message names the file and, where there is one, the record."""


class DiskFullError(OSError):
    """No space left on the device; what was written before is intact, and the message says so."""


class NonFiniteError(RuntimeError):
    """A loss or gradient that is inf or nan; the message holds the step, the terms and the ids."""
