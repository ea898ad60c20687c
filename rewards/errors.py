"""The two errors a user meets: bad input (exit code 2) and a check or run that failed (exit code 1)."""


class InputError(ValueError):
    """Bad usage or bad input. The message is one line: file, row or key, what is wrong, and the remedy."""


class CheckError(RuntimeError):
    """A check that did not hold or a run that failed. The message is one line that names the remedy."""
