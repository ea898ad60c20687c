"""What is never published: secrets, and where things lay on the machine of the run."""

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rewards import InputError

_SECRET: Final = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)  # in the name of a variable
_LEAST: Final = 8  # characters of a secret; shorter values are words such as `true`
_HUB_TOKEN: Final = r"\bhf_[A-Za-z0-9]{30,}"  # the form of the Hub's tokens
# Keys whose values name a machine, or are secrets.
_LEFT_OUT: Final = re.compile(r"(?:^|_)(?:url|host|port|token|password|secret)$")
# A folder that a path begins at: `/`, `~/` or `~name/`; what looks like a tag, a URL or a fraction is none.
_PATH: Final = re.compile(r"(?<![\w./~<-])(?:~[\w.-]*)?/(?!/)(?:[^\s/'\"`,;:()<>]+/)*([^\s/'\"`,;:()<>]+)/?")


def without_places(value: Any) -> Any:
    """Return a configuration's or manifest's values without the places on the machine of the run.

    - An absolute path is replaced by its last part, also within a sentence.
    - Keys that name a server are left out (`base_url`, `host`), and keys of tokens.

    Args:
        value: values that JSON has: mappings, lists, text, numbers.
    """
    if isinstance(value, Mapping):
        return {
            str(without_places(key)): without_places(one)
            for key, one in value.items()
            if not _LEFT_OUT.search(str(key))
        }
    if isinstance(value, list | tuple):
        return [without_places(one) for one in value]
    if not isinstance(value, str):
        return value
    text = value.replace("file://", "")
    if text.startswith(("/", "~/")) and "\n" not in text:  # all of it is a path, which may hold spaces
        return text.rstrip("/").rpartition("/")[2]
    return _PATH.sub(r"\1", text)


def refuse_private(folder: Path, run: Path) -> None:
    """Refuse to publish a folder in which a file holds a secret or a path of this machine.

    Looked for are the values of the environment's variables that are named like secrets, the Hub's stored token,
    anything of the form of the Hub's tokens, and the paths of the home folder, the working directory and the run.

    Args:
        folder: what is to be published.
        run: the run folder.

    Raises:
        InputError: a file holds one of these. The message names the file and what it holds, never the value.
    """
    wanted = _private(run)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found = _in_table(path, wanted) if path.suffix == ".parquet" else _in_bytes(path, wanted)
            if found is not None:
                raise InputError(
                    f"{path.relative_to(folder)}: would hold {found}, so nothing is published; remove it from the "
                    f"files of {run}, and publish again"
                )


def _private(run: Path) -> dict[str, str]:
    """What must not be published, and how a message calls it."""
    from huggingface_hub import get_token

    folders = {Path.home(): "the path of your home folder", Path.cwd(): "the path of the working directory",
               run.resolve().parent: "the path of the run"}  # fmt: skip
    found = {f"{folder}/": what for folder, what in folders.items() if folder != Path("/")}
    if token := get_token():
        found[token] = "the Hub's token"
    named = {name: value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _LEAST}
    return found | {value: f"the value of {name}" for name, value in named.items()}


def _in_bytes(path: Path, wanted: Mapping[str, str]) -> str | None:
    """What a file holds of what is looked for."""
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for text, what in wanted.items():
            if content.find(text.encode()) >= 0:
                return what
        if re.search(_HUB_TOKEN.encode(), content):
            return "a token of the Hub"
    return None


def _in_table(path: Path, wanted: Mapping[str, str]) -> str | None:
    """What a Parquet file holds of what is looked for, in its facts or its columns of text."""
    with pq.ParquetFile(path) as file:
        facts = b"\n".join((file.schema_arrow.metadata or {}).values()).decode("utf-8", errors="replace")
        for text, what in wanted.items():
            if text in facts:
                return what
        if re.search(_HUB_TOKEN, facts):
            return "a token of the Hub"
        texts = [
            field.name
            for field in file.schema_arrow
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        for group in range(file.num_row_groups):
            for column in file.read_row_group(group, columns=texts).columns:
                for text, what in wanted.items():
                    if pc.any(pc.match_substring(column, text)).as_py():
                        return what
                if pc.any(pc.match_substring_regex(column, _HUB_TOKEN)).as_py():
                    return "a token of the Hub"
    return None
