"""`synthpert` as it is typed, but run in the process of the tests: one of its own spends seconds on imports."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import pytest

from rl.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it said."""

    returncode: int
    stdout: str
    stderr: str


def synthpert(*words: Any, cwd: Path) -> Done:
    """Run a command in a folder, without the full labels."""
    out, err = StringIO(), StringIO()
    warnings = logging.StreamHandler(err)  # as Python shows them where no logging is set up
    logger = logging.getLogger("synthpert")
    with (
        pytest.MonkeyPatch.context() as patch,
        _errors_of_its_processes() as errors,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["synthpert", *map(str, words)])
        patch.setattr("benchmarks.quiet.hide_library_noise", lambda: None)  # it is for the rest of a process
        patch.setenv("GOMP_SPINCOUNT", os.environ.get("GOMP_SPINCOUNT", "20000"))
        patch.setenv("HOME", str(cwd))
        for name in ("SYNTHPERT_DATA", "SYNTHPERT_DEBUG"):
            patch.delenv(name, raising=False)
        logger.addHandler(warnings)
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            logger.removeHandler(warnings)
        errors.seek(0)
        return Done(int(end.value.code or 0), out.getvalue(), err.getvalue() + errors.read().decode())


@contextmanager
def _errors_of_its_processes() -> Iterator[IO[bytes]]:
    """Take what processes that are started within write to their standard error."""
    with TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)
