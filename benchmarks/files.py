"""Files: written completely or not at all, with one-line errors if the disk refuses; and their digest."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from rewards import CheckError, InputError

PARTIAL: Final = ".partial"
_HOME: Final = re.compile(r"((?:--)?[\w-]+=)?(~[\w.-]*/.*)", re.DOTALL)
_WRITE_ERRORS: Final = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip


def at_home(word: str) -> str:
    """Return a path, or a word `--key=PATH`, with the home folder in place of `~`; other text is returned unchanged."""
    found = _HOME.fullmatch(word)
    return word if found is None else f"{found[1] or ''}{os.path.expanduser(found[2])}"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a failed write below `path` into one line with the remedy; other system errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        named = str(error.filename or path).removesuffix(PARTIAL)
        raise CheckError(
            f"{named}: cannot be written ({error.strerror}); make room or choose another folder, and run the same "
            "command again"
        ) from error


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse an output folder that cannot be one.

    Args:
        folder: the folder.
        option: the option that names it, for the message.

    Raises:
        InputError: the path, or a parent of it, is a file.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.exists() and not there.is_dir():
        raise InputError(f"{there}: is a file; choose another folder for {option}")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written under a temporary name. It gets its own name once all of it is on the disk.

    Readers see either the old file or the complete new one, even after a kill or a power cut. If writing fails, the
    temporary file is removed. Missing folders are created.

    Args:
        path: the file; an existing one is replaced.

    Yields:
        The open file, for bytes.

    Raises:
        CheckError: the disk is full or the file cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file in UTF-8, completely or not at all; see `whole_file`. `errors` as in `str.encode`."""
    content = text.encode("utf-8", errors)
    with whole_file(path) as file:
        file.write(content)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that a new name in it is on the disk too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
