"""SHA256SUMS: the SHA-256 of every file of a publication, in the form that `sha256sum --check` reads."""

import re
from pathlib import Path, PurePosixPath
from typing import Final

from benchmarks.files import file_sha256, write_text
from rewards import InputError

SUMS: Final = "SHA256SUMS"
OF_THE_HUB: Final = ".gitattributes"  # the Hub adds it to every repository
_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS into a folder, over all other files below it."""
    names = sorted(_files(folder) - {SUMS})
    write_text(folder / SUMS, "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names))


def read_sums(file: Path, place: str) -> dict[str, str]:
    """Return the digests that SHA256SUMS lists, by the name of the file relative to the list.

    Args:
        file: the list.
        place: what to call the publication in an error.

    Raises:
        InputError: there is no such list, a line does not read, or a name leads out of the folder.
    """
    if not file.is_file():
        raise InputError(f"{place}: holds no {SUMS}, so it is no publication; give what `synthpert publish` made")
    digests: dict[str, str] = {}
    for row, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None or not _is_within(found[2]) or found[2] in digests:
            raise InputError(f"{place}: {SUMS}, row {row}: names no file of it once; publish the run again")
        digests[found[2]] = found[1]
    return digests


def check_sums(folder: Path, place: str) -> dict[str, str]:
    """Check every file of a publication against its SHA256SUMS, and return the digests.

    Args:
        folder: the publication.
        place: what to call it in an error.

    Raises:
        InputError: there is no list, or a file is missing, has changed, or is not in the list. The message names it.
    """
    digests = read_sums(folder / SUMS, place)
    there = _files(folder) - {SUMS}
    remedy = f"restore it as {SUMS} has it, or publish the run again"
    for name, digest in digests.items():
        if name not in there:
            raise InputError(f"{place}: {name} is missing; {remedy}")
        if file_sha256(folder / name) != digest:
            raise InputError(f"{place}: {name} has changed since it was published; {remedy}")
    if extra := sorted(there - digests.keys()):
        raise InputError(f"{place}: {extra[0]} is not in {SUMS}; remove it, or publish the run again")
    return digests


def _files(folder: Path) -> set[str]:
    """The files below a folder, as names with slashes; that of the Hub does not count."""
    found = (path for path in folder.rglob("*") if not path.is_dir() and path.name != OF_THE_HUB)
    return {path.relative_to(folder).as_posix() for path in found}


def _is_within(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and str(path) == name
