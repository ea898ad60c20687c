"""Tables from elsewhere: CSV, TSV, JSON lines and Parquet, read row by row or as a whole, with row numbers.

The number of a row is the line where it begins, as in a text editor; in Parquet, rows are counted from 1. Text stays
text: the gene NA is a gene, and 1-Mar is no date. Text files may be compressed with gzip. Pickles are never opened,
since they can run code.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from rewards import LABELS, InputError
from rewards.answer import plain_space

_CSV: Final = (".csv", ".tsv")
_JSON: Final = (".jsonl", ".ndjson")
_PARQUET: Final = (".parquet",)
KINDS: Final = (*_CSV, *_JSON, *_PARQUET)
_INDEX: Final = re.compile(r"__index_level_\d+__")  # column in which pandas stores its row numbers
_BATCH: Final = 4096  # rows that are held as Python objects at a time
_AT_ONCE: Final = 2**29  # bytes of text that are read at once


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read: the reason, and its content."""

    reason: str
    content: Any


Row = tuple[int, dict[str, Any] | BrokenRow]


@dataclass(frozen=True)
class Table:
    """A whole file.

    Attributes:
        path: the file.
        names: names of all its columns.
        frame: N rows of the columns that are used. Text of a CSV, missing where empty; otherwise the file's own types.
        rows: (N,) their numbers.
    """

    path: Path
    names: list[str]
    frame: pd.DataFrame
    rows: npt.NDArray[np.int64]

    def refuse(self, wrong: Any, problem: str, column: str | None = None) -> None:
        """Raise an `InputError` that names the first wrong row, if there is one.

        Args:
            wrong: (N,) whether each row is wrong.
            problem: what is wrong with them, and the remedy.
            column: the column whose value is shown; None for none.
        """
        found = np.flatnonzero(np.asarray(wrong, dtype=bool))
        if found.size:
            values = self.frame.iloc[found[0]].to_dict()  # Python types, for the message
            shown = "" if column is None else f"{column} is {values[column]!r}: "
            raise InputError(f"{self.path}, row {self.rows[found[0]]}: {shown}{problem}")


def iter_rows(path: Path, used: Collection[str] | None = None) -> Iterator[Row]:
    """Yield the number of each row and its values by column; a row that cannot be read is a `BrokenRow`.

    Values of a CSV (separated by `,`, `;` or tabs) are text, empty ones too. Others have the types stored.

    Args:
        path: the file.
        used: columns that must not occur twice; None for all that have a name.

    Raises:
        InputError: the file is missing, of another kind, unreadable as a whole, or a column occurs twice.
    """
    kind = check_kind(path)
    read = _iter_csv if kind in _CSV else _iter_json if kind in _JSON else _iter_parquet
    with _readable(path):
        yield from read(path, used)


def read_table(path: Path, used: Collection[str] | None = None) -> Table:
    """Read a file as a whole.

    Args:
        path: the file.
        used: columns to read where the file has them; None for all. Other columns may hold anything.

    Returns:
        The table.

    Raises:
        InputError: see `iter_rows`; or a row cannot be read (the message names it).
    """
    kind = check_kind(path)
    read = _read_csv if kind in _CSV else _read_json if kind in _JSON else _read_parquet
    with _readable(path):
        return read(path, used)


def column_names(path: Path) -> list[str]:
    """Return the names of the columns of a CSV, TSV or Parquet file, without reading its rows.

    Raises:
        InputError: the file is missing, of another kind, or unreadable.
    """
    kind = check_kind(path, (*_CSV, *_PARQUET))
    with _readable(path):
        if kind in _CSV:
            return _csv_names(path, ())
        return [name for name in pq.read_schema(path).names if not _INDEX.fullmatch(name)]


def check_kind(path: Path, kinds: Sequence[str] = KINDS) -> str:
    """Return the kind of a table; see `table_kind`.

    Args:
        path: the file.
        kinds: the kinds allowed.

    Raises:
        InputError: the kind is not in `kinds`, or the file does not exist.
    """
    kind = table_kind(path)
    if kind not in kinds:
        raise InputError(
            f"{path}: {kind or 'a file without suffix'} is not read; save it as {' or '.join(kinds)} (pickles can run "
            "code and are never opened)"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a table, {' or '.join(kinds)}")
    return kind


def table_kind(path: Path) -> str:
    """Return the suffix of a table in lower case; for text that gzip compressed, the suffix before `.gz`."""
    suffix = path.suffix.lower()
    within = Path(path.stem).suffix.lower()
    return within if suffix == ".gz" and within in (*_CSV, *_JSON) else suffix


def _open(path: Path) -> BinaryIO:
    """Open a file for its bytes; those of a compressed one are decompressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def numbers(column: pd.Series) -> npt.NDArray[np.float64]:
    """Return a column as numbers, (N,); NaN where a value is missing or not a number."""
    return np.asarray(pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def normalize_word(text: str) -> str:
    """Return a text in the form used to compare words: letter case and white space within it do not matter."""
    return " ".join(plain_space(text).casefold().split())


def label_words(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the meaning of each word (as `normalize_word` gives it): those in `labels`, and our own labels.

    Args:
        labels: from words in a file to their meanings.

    Raises:
        InputError: a word has two meanings.
    """
    meaning = {str(label): str(label) for label in LABELS}
    for theirs, ours in labels.items():
        if meaning.setdefault(normalize_word(theirs), ours) != ours:
            raise InputError(
                f"--label {theirs}={ours}: {theirs!r} means {meaning[normalize_word(theirs)]!r} already (letter case "
                "does not tell words apart); rename one of them in the file"
            )
    return meaning


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: cannot be read ({said}); write the file again") from None


def _each_once(path: Path, names: Sequence[str], used: Collection[str] | None) -> list[str]:
    if twice := _twice(names, used):
        raise InputError(f"{path}: column {twice[0]!r} occurs twice; rename one")
    return list(names)


def _twice(names: Sequence[str], used: Collection[str] | None) -> list[str]:
    """The names that occur twice, of those in `used`; if that is None, of all that are not empty."""
    seen: set[str] = set()
    again = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    return [name for name in again if (name if used is None else name in used)]


# --- text -------------------------------------------------------------------------------------------------------------


def _iter_lists(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the values of each row of a CSV. The first is the header, with at least one value."""
    csv.field_size_limit(2**31 - 1)  # reasoning can be longer than the module's default of 128 kB
    with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.reader(file, strict=True, delimiter=_delimiter(header))
        row = 1
        try:
            for values in reader:
                if values:  # an empty line is not a row
                    yield row, values
                elif row == 1:
                    raise InputError(f"{path}: the first line is empty; write the columns' names there")
                row = reader.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"{path}, row {row}: not CSV ({error}); close the quote that opens there, and write quotes within it "
                "twice"
            ) from None
    if row == 1:
        raise InputError(f"{path}: the file is empty; write the columns' names in its first line")


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _csv_names(path: Path, used: Collection[str] | None) -> list[str]:
    return _each_once(path, next(_iter_lists(path))[1], used)


def _iter_csv(path: Path, used: Collection[str] | None) -> Iterator[Row]:
    names = _csv_names(path, used)
    for row, values in islice(_iter_lists(path), 1, None):
        if len(values) == len(names):
            yield row, dict(zip(names, values, strict=True))
        else:
            many = len(values) > len(names)
            content = values if many else dict(zip(names, values, strict=False))
            yield row, BrokenRow(f"row has {'more' if many else 'fewer'} values than the header", content)


def _read_csv(path: Path, used: Collection[str] | None) -> Table:
    names = _csv_names(path, used)
    kept = [name for name in names if used is None or name in used]
    if (table := _read_regular(path, names, kept)) is not None:
        return Table(path, names, table.to_pandas(), np.arange(2, table.num_rows + 2))
    rows: list[int] = []
    batches = [pa.table({name: pa.array([], pa.string()) for name in kept})]
    records = _unbroken(path, _iter_csv(path, used))
    while batch := list(islice(records, _BATCH)):  # all rows as Python objects would take many times the file's size
        rows += [row for row, _ in batch]
        columns = {name: [record[name] or None for _, record in batch] for name in kept}
        batches.append(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))
    return Table(path, names, pa.concat_tables(batches).to_pandas(), np.array(rows, dtype=np.int64))


def _read_regular(path: Path, names: Sequence[str], kept: Sequence[str]) -> pa.Table | None:
    """Read a CSV whose rows are its lines, many times faster than row by row.

    Args:
        path: the file.
        names: all its columns.
        kept: those to read.

    Returns:
        The columns as text, missing where empty. None for any other file: one with a line end or a stray quote within
        a value, an empty line, a row of another length, or text that is not UTF-8; or for one that is very large.
    """
    with _open(path) as file:
        content = file.read(_AT_ONCE + 1)
    if not kept or len(content) > _AT_ONCE or b"\0" in content:
        return None
    content = content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    delimiter = _delimiter(content.split(b"\n", 1)[0].decode("utf-8", "replace"))
    if content.count(b"\r") != content.count(b"\r\n") or not _plainly_quoted(content, delimiter):
        return None
    keys = [str(at) for at in range(len(names))]  # a name that is not read may occur twice
    used = [keys[names.index(name)] for name in kept]
    try:
        table = pyarrow.csv.read_csv(
            pa.py_buffer(content),
            read_options=pyarrow.csv.ReadOptions(column_names=keys, skip_rows=1),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda row: "skip"
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(used, pa.string()), include_columns=used, strings_can_be_null=False
            ),
        )
    except pa.ArrowException:
        return None  # the exact reader says what is wrong, and where
    if table.num_rows != content.count(b"\n"):
        return None
    empty = pa.scalar("", pa.string())
    texts = [pc.if_else(pc.equal(column, empty), pa.scalar(None, pa.string()), column) for column in table.columns]
    return pa.table(dict(zip(kept, texts, strict=True)))


def _plainly_quoted(content: bytes, delimiter: str) -> bool:
    """Tell whether quotes open only where a value begins and close only where it ends, or stand doubled within one."""
    if b'"' not in content:
        return True
    text = np.frombuffer(content, dtype=np.uint8)
    at = np.flatnonzero(text == ord('"'))
    if len(at) % 2:
        return False
    edges = np.zeros(256, dtype=bool)
    edges[[ord(delimiter), ord("\n"), ord("\r"), ord('"')]] = True
    opening, closing = at[::2], at[1::2]
    before, after = opening[opening > 0] - 1, closing[closing < len(text) - 1] + 1
    return bool(edges[text[before]].all() and edges[text[after]].all())


# --- JSON lines -------------------------------------------------------------------------------------------------------


def _iter_json(path: Path, used: Collection[str] | None) -> Iterator[Row]:
    with _open(path) as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if row == 1 else "utf-8"), object_pairs_hook=_object)
            except UnicodeDecodeError:
                yield row, BrokenRow("not UTF-8 text", line.decode("utf-8", "backslashreplace"))
            except (ValueError, RecursionError):
                yield row, BrokenRow("not JSON", line.decode("utf-8"))
            else:
                if not isinstance(record, dict):
                    yield row, BrokenRow("not an object", record)
                elif isinstance(record, _Repeating) and (twice := _twice(record.names, used)):
                    yield row, BrokenRow(f"key {twice[0]!r} is there twice", line.decode("utf-8-sig"))
                else:
                    yield row, record


class _Repeating(dict[str, Any]):
    """An object that repeats a key; Python's reader alone would keep only the last value.

    Attributes:
        names: all its keys, in the file's order.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    return record if len(record) == len(pairs) else _Repeating(pairs)


def _read_json(path: Path, used: Collection[str] | None) -> Table:
    names: dict[str, None] = {}  # an ordered set
    rows, records = [], []
    for row, record in _unbroken(path, _iter_json(path, used)):
        names.update(dict.fromkeys(record))
        rows.append(row)
        records.append({name: value for name, value in record.items() if used is None or name in used})
    kept = [name for name in names if used is None or name in used]
    columns = {name: pd.Series([record.get(name) for record in records], dtype=object) for name in kept}
    return Table(path, list(names), pd.DataFrame(columns), np.array(rows, dtype=np.int64))


def _unbroken(path: Path, rows: Iterator[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows; raise at the first that cannot be read."""
    for row, record in rows:
        if isinstance(record, BrokenRow):
            raise InputError(f"{path}, row {row}: {record.reason}; fix the row")
        yield row, record


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _iter_parquet(path: Path, used: Collection[str] | None) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        _each_once(path, file.schema_arrow.names, used)
        batches = (pa.table(_decoded(batch)) for batch in file.iter_batches(1024))
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)


def _read_parquet(path: Path, used: Collection[str] | None) -> Table:
    with pq.ParquetFile(path) as file:
        names = [name for name in _each_once(path, file.schema_arrow.names, used) if not _INDEX.fullmatch(name)]
        table = pa.table(_decoded(file.read([name for name in names if used is None or name in used])))
    for field in table.schema:
        if used is not None and _text_type(field.type) != field.type:
            raise InputError(f"{path}: column {field.name!r} holds bytes that are not UTF-8 text; save it as text")
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return Table(path, names, frame, np.arange(1, len(frame) + 1))


def _decoded(table: pa.Table | pa.RecordBatch) -> dict[str, Any]:
    """A table's columns, with text that was stored as bytes decoded; other bytes, such as pictures, stay."""
    columns: dict[str, Any] = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        try:
            columns[field.name] = column.cast(_text_type(field.type))
        except pa.ArrowInvalid:  # not UTF-8
            columns[field.name] = column
    return columns


def _text_type(kind: pa.DataType) -> pa.DataType:
    """A type with text in place of bytes, also within lists and mappings."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.string()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _text_type(kind.value_type), kind.ordered)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_text_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_text_type(field.type)) for field in kind])
    return kind
