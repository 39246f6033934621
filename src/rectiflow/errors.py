"""What can go wrong that is neither a bug nor a wrong argument.

Mistakes of the caller are plain `ValueError`s. The command line turns these, `FileNotFoundError`
and the classes here into one line on stderr and exit code 2; `DivergenceError`, and Python's
`ConnectionError` for a lost connection, into one line and exit code 1.
"""

import errno

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Numbers of errors of the system that tell of a full disk, or of a full quota."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""Those of a file system on which no file can be locked."""


class DataError(ValueError):
    """A damaged file; the message names the file and, where there is one, the record."""


class DiskFullError(OSError):
    """No space left on the device; what was written before is intact, and the message says so."""


class DivergenceError(RuntimeError):
    """Training went wrong in its numbers; the message holds the step, the module and the ids."""


class SpikeError(DivergenceError):
    """A gradient that is far larger than those before it."""


class NonFiniteError(DivergenceError):
    """A loss or gradient that is inf or nan; the message holds the step, the terms and the ids."""


class LostRankError(ConnectionError):
    """A process of the job is dead or gone; the message names it."""
