"""PerturbQA's pairs of files: which items change (`-de.csv`), and in which direction (`-dir.csv`), read and joined."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from benchmarks.screens.published import PublishedFiles
from benchmarks.screens.schema import CELL_LINES, LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE, SPLITS
from rewards import LABELS, InputError, Label

COLUMNS: Final = ("pert", "gene", "label", "split")
OFFICIAL_URL: Final = "https://raw.githubusercontent.com/genentech/PerturbQA/main/perturbqa/datasets"
_BROKEN: Final = r"^\s*$|[|\s]"
_BROKEN_SET: Final = r"^\s|\s$|^$|[|\t\r\n]"
Codes = np.ndarray[tuple[int], np.dtype[np.int8]]


def read_items(
    folder: Path, name: str, files: PublishedFiles, *, line: str, verify: bool, sets: bool = False
) -> pd.DataFrame:
    """Read and join the files `NAME-de.csv` and `NAME-dir.csv`.

    Args:
        folder: where they are.
        name: what their names begin with.
        files: the publication that they belong to.
        line: the cell line, one of `CELL_LINES`.
        verify: check each file's SHA-256, after its rows.
        sets: whether the readouts are sets of genes, whose names may have spaces.

    Returns:
        A row per item; see `benchmarks.screens.labels.load_labels`.

    Raises:
        InputError: as there.
    """
    paths = folder / f"{name}-de.csv", folder / f"{name}-dir.csv"
    (de, de_bytes), (direction, dir_bytes) = (_read_csv(path, files, sets=sets) for path in paths)
    split = _split(paths[0], de)
    label = _join_labels(paths, de, direction, split)
    if verify:
        for path, content in zip(paths, (de_bytes, dir_bytes), strict=True):
            files.check(str(path), path.name, content)
    item_id = pc.binary_join_element_wise(pa.scalar(line), de["pert"], de["gene"], "|")
    return pd.DataFrame(
        {
            "item_id": item_id.to_pandas(),
            "cell_line": pd.Categorical.from_codes(np.full(len(label), CELL_LINES.index(line)), dtype=LINE_DTYPE),
            "pert": de["pert"].to_pandas(),
            "gene": de["gene"].to_pandas(),
            "label": pd.Categorical.from_codes(label, dtype=LABEL_DTYPE),
            "split": pd.Categorical.from_codes(split, dtype=SPLIT_DTYPE),
        }
    )


def _join_labels(paths: tuple[Path, Path], de: pa.Table, direction: pa.Table, split: Codes) -> Codes:
    """Join a line's two files: (N,) label code of each row of `de`; `split` holds the split codes of these rows."""
    de_path, dir_path = paths
    de_key, dir_key = _pair_keys(de_path, de), _pair_keys(dir_path, direction)
    de_label, dir_label = _binary(de_path, de), _binary(dir_path, direction)
    position = pc.index_in(dir_key, value_set=de_key)
    missing = np.flatnonzero(pc.is_null(position).to_numpy(zero_copy_only=False))
    if missing.size:
        raise _row_error(
            dir_path, direction, int(missing[0]), f"is not in {de_path.name}", "every direction row needs its DE row"
        )
    at = position.to_numpy()
    for wrong, problem in (
        (~de_label[at], f"has label 0 in {de_path.name}: a direction without differential expression"),
        (split[at] != _split(dir_path, direction), f"is in another split than in {de_path.name}"),
    ):
        if wrong.any():
            raise _row_error(dir_path, direction, int(np.flatnonzero(wrong)[0]), problem, "fetch the files again")
    label = np.full(len(de_label), LABELS.index(Label.NONE), dtype=np.int8)
    label[at] = np.where(dir_label, LABELS.index(Label.UP), LABELS.index(Label.DOWN))
    undirected = np.flatnonzero(de_label & (label == LABELS.index(Label.NONE)))
    if undirected.size:
        raise _row_error(
            de_path, de, int(undirected[0]), f"has label 1 but no direction in {dir_path.name}", "fetch the files again"
        )
    return label


def _row_error(path: Path, table: pa.Table, index: int, problem: str, remedy: str) -> InputError:
    pair = f"{table['pert'][index].as_py()},{table['gene'][index].as_py()}"
    return InputError(f"{path}, row {index + 2}: {pair} {problem}; {remedy}")


def _read_csv(path: Path, files: PublishedFiles, *, sets: bool) -> tuple[pa.Table, bytes]:
    """Read one label file as text columns, and its bytes for the hash."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {files.words} are needed, run `{files.command}`")
    content = path.read_bytes()
    if not content.strip():
        raise InputError(f"{path}: the file is empty; run `{files.command}`")
    header = content.split(b"\n", 1)[0].removeprefix(b"\xef\xbb\xbf").strip().decode("utf-8", "replace")
    if header != ",".join(COLUMNS):
        raise InputError(
            f"{path}, row 1: the header is {header[:80]!r}, not {','.join(COLUMNS)!r}; run `{files.command}`"
        )
    broken: list[str] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        broken.append(f"row {row.number}: {row.actual_columns} columns, not {row.expected_columns}: {row.text[:80]!r}")
        return "skip"  # goes on to collect all broken rows; any of them raises below

    try:
        table = pyarrow.csv.read_csv(
            pa.py_buffer(content),
            read_options=pyarrow.csv.ReadOptions(use_threads=False),  # with threads, row numbers are missing
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=note, ignore_empty_lines=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False, check_utf8=True
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a CSV file of text ({str(error)[:120]}); run `{files.command}`") from error
    if broken:
        raise InputError(f"{path}, {broken[0]}; the file is damaged, run `{files.command}`")
    if table.num_rows == 0:
        raise InputError(f"{path}: no rows below the header; run `{files.command}`")
    table = table.combine_chunks()
    for column, broken_symbol in (("pert", _BROKEN), ("gene", _BROKEN_SET if sets else _BROKEN)):
        bad = np.flatnonzero(pc.match_substring_regex(table[column], broken_symbol).to_numpy(zero_copy_only=False))
        if bad.size:
            raise _row_error(
                path, table, int(bad[0]), f"has an empty or broken {column} symbol", "fetch the files again"
            )
    return table, content


def _pair_keys(path: Path, table: pa.Table) -> pa.Array:
    """Return `pert|gene` of each row; raise where a pair occurs twice."""
    keys = pc.binary_join_element_wise(table["pert"], table["gene"], "|").combine_chunks()
    codes = keys.dictionary_encode().indices.to_numpy()
    if codes.max() + 1 < len(codes):  # a new key gets the next code, so the first row that does not is a repeat
        repeat = int(np.flatnonzero(codes != np.arange(len(codes)))[0])
        first = int(np.flatnonzero(codes == codes[repeat])[0])
        raise _row_error(path, table, repeat, f"occurs twice (first in row {first + 2})", "remove one of the rows")
    return keys


def _binary(path: Path, table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    ones: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.equal(_codes(path, table, "label", ("0", "1")), 1)
    return ones


def _split(path: Path, table: pa.Table) -> Codes:
    return _codes(path, table, "split", SPLITS)


def _codes(path: Path, table: pa.Table, column: str, allowed: Sequence[str]) -> Codes:
    found = pc.index_in(table[column], value_set=pa.array(list(allowed)))
    unknown = np.flatnonzero(pc.is_null(found).to_numpy(zero_copy_only=False))
    if unknown.size:
        index = int(unknown[0])
        value = table[column][index].as_py()
        raise _row_error(path, table, index, f"has {column} {value!r}", f"allowed are {' and '.join(allowed)}")
    codes: Codes = found.to_numpy().astype(np.int8)
    return codes
