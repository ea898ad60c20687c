"""Logs of inspect (`.eval`): a zip archive of JSON, read without inspect.

inspect 0.3.2xx compresses the entries with Zstandard, which Python's `zipfile` does not know before 3.14. Arrow does.
The summaries have ids, scores, metadata, errors and limits. Whether the last model call ran into its token limit is in
the samples alone.
"""

import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from benchmarks.comparison.records import Record
from rewards import InputError

_ZSTANDARD: Final = 93
_LOCAL_HEADER: Final = struct.Struct("<26xHH")  # lengths of the name and of the extra field, at the end of 30 bytes
_CUT_OFF: Final = re.compile(rb'"stop_reason":\s*"(?:max_tokens|model_length)"')


def read_inspect(path: Path) -> tuple[list[Record], list[str]]:
    """Return the samples of a log, and what its reader should know of the run.

    Raises:
        InputError: the file is no such log.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_records(path, archive)), _notes(path, archive)
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: cannot be read as a log of inspect ({said}); evaluate again, or write its scores as a table"
        ) from None


def read_entry(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the content of an entry of a log, compressed in whichever way.

    Args:
        path: the log.
        archive: the same file, opened.
        name: of the entry.
    """
    info = archive.getinfo(name)
    if info.compress_type != _ZSTANDARD:
        return archive.read(name)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        file.seek(sum(lengths), 1)
        packed = file.read(info.compress_size)
    content: bytes = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    if zipfile.crc32(content) != info.CRC:  # type: ignore[attr-defined]
        raise ValueError(f"{name} is damaged")
    return content


def _summaries(path: Path, archive: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    names = set(archive.namelist())
    if "summaries.json" in names:
        yield from json.loads(read_entry(path, archive, "summaries.json"))
        return
    journal = [name for name in names if name.startswith("_journal/summaries/")]
    if not journal and "_journal/start.json" not in names:
        raise ValueError("no summaries in it")
    for name in sorted(journal, key=lambda name: int(Path(name).stem)):
        yield from json.loads(read_entry(path, archive, name))


def _records(path: Path, archive: zipfile.ZipFile) -> Iterator[Record]:
    names = set(archive.namelist())
    for one in _summaries(path, archive):
        epoch = one.get("epoch", 1)
        sample = f"samples/{one['id']}_epoch_{epoch}.json"
        cut_off = bool(one.get("limit")) or (sample in names and _is_cut_off(read_entry(path, archive, sample)))
        yield Record(
            where=f"sample {one['id']}, epoch {epoch}",
            item=str(one["id"]),
            scores=_scores(one.get("scores") or {}),
            incomplete=cut_off,
            error=bool(one.get("error")),
            content=json.dumps(_asked(one.get("input")), sort_keys=True),
            fields=(one.get("metadata") or {}, {"id": one["id"], "epoch": epoch}),
        )


def _asked(given: Any) -> Any:
    """What a sample asks: a text, or role and content of each message, whose ids are other ones in every run."""
    return [[one.get("role"), one.get("content")] for one in given] if isinstance(given, list) else given


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by name; those that a scorer gives under several keys are called `scorer.key`."""
    values: dict[str, Any] = {}
    for name, score in scores.items():
        value = score.get("value")
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": one for key, one in value.items()}
        else:
            values[name] = value
    return values


def _is_cut_off(sample: bytes) -> bool:
    """Did the last model call of a sample end at its token limit?"""
    if not _CUT_OFF.search(sample):  # a sample can hold megabytes of events; most need not be parsed
        return False
    choices = (json.loads(sample).get("output") or {}).get("choices") or [{}]
    return choices[0].get("stop_reason") in ("max_tokens", "model_length")


def _notes(path: Path, archive: zipfile.ZipFile) -> list[str]:
    if "header.json" not in archive.namelist():
        return [f"{path.name}: its run did not end; samples may be missing"]
    status = json.loads(read_entry(path, archive, "header.json")).get("status")
    return [] if status == "success" else [f"{path.name}: its run ended with status {status!r}; samples may be missing"]
