"""Labels: PerturbQA's eight files, which are fetched, verified and joined; the sample; and label tables."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from benchmarks.screens import bioreasoning
from benchmarks.screens.published import PublishedFiles
from benchmarks.screens.schema import CELL_LINES, LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE, SPLITS, lines_of
from benchmarks.screens.screen import PERTURBQA, Screen
from benchmarks.screens.table import LabelTable, is_table, read_screen
from rewards import LABELS, InputError, Label

COLUMNS: Final = ("pert", "gene", "label", "split")
SAMPLE: Final = "sample"  # stands for the rows that ship with the package, where a folder may be named

OFFICIAL_URL: Final = "https://raw.githubusercontent.com/genentech/PerturbQA/main/perturbqa/datasets"

SHA256: Final = {
    "hepg2-de.csv": "f94045fb44dcca4af9c69bee5c87de624590061a1123d55d9ee42a9c1ca97932",
    "hepg2-dir.csv": "8c642ab6e6996887dce6c774d5fc58546970ba9216a636c7547b5039062a2cc3",
    "jurkat-de.csv": "cf993f77015bd7df9d71ce9cf1170f6c8e64a571dc6f9ba0aef411ffb103eec5",
    "jurkat-dir.csv": "8e17055a5bbf8c2751317db5284a9e793a2dc5aaccef0afbcdaf87daabc45709",
    "k562-de.csv": "e6ab095f3f970bb29f48427414904136785e8cd4945496f8d9a8fa6eab35ee67",
    "k562-dir.csv": "84a0bc9631b33b8720663ed69506a316dad0f686a51f702f277914cc722000f4",
    "rpe1-de.csv": "a66a86aac5db458e0703bccf7f2d638769400a7ccb9f2615cd9421c106b748ca",
    "rpe1-dir.csv": "25fa0b37c7e86cd73e8135b83513ea9d96c55e5a6c3f222ffbb531b91ab0fb0c",
}
DATA_HELP: Final = "labels: a folder, a table, a YAML file that describes one, or `sample`; none for the default"
# Screens that ship as a description of a table, which the user fetches.
DESCRIBED: Final = {bioreasoning.NAME: bioreasoning.SHIPPED}
Codes = np.ndarray[tuple[int], np.dtype[np.int8]]


def data_dir() -> Path:
    """Return the folder of the full labels: `SYNTHPERT_DATA` if it names one, else the folder that `data fetch` fills.

    `SYNTHPERT_DATA` may also be `sample`, which is no folder; see `data_source`.
    """
    override = os.environ.get("SYNTHPERT_DATA")
    named = override and override != SAMPLE
    return Path(str(override)).expanduser() if named else Path.home() / ".cache" / "synthpert" / "perturbqa"


def data_source(source: str | Path | None = None) -> str:
    """Return where labels come from: a folder, a label table, a file that describes one, or `sample`.

    Args:
        source: one of these; `perturbqa` for `data_dir()`; a name in `DESCRIBED`; None for what `SYNTHPERT_DATA` names,
            else for `data_dir()`.
    """
    if source is None:
        return SAMPLE if os.environ.get("SYNTHPERT_DATA") == SAMPLE else str(data_dir())
    if not Path(source).exists():  # a folder may have such a name
        if str(source) == "perturbqa":
            return str(data_dir())
        source = DESCRIBED.get(str(source), source)
    return str(source)


def fetch(source: str | Path | None = None, out: Path | None = None, *, timeout: float = 60.0) -> Path:
    """Copy the eight label files into `out`. Each is checked against its SHA-256 before it is put in place.

    Args:
        source: a folder, or the base URL of one; None for the official repository.
        out: the folder to fill; None for `data_dir()`. Correct files that are already there are kept.
        timeout: seconds to wait for the network, per file.

    Returns:
        The folder.

    Raises:
        InputError: a file is missing, truncated or changed at the source, or the network is out of reach.
        CheckError: a file cannot be written.
    """
    return _published().fetch(source, data_dir() if out is None else out, timeout)


def _published() -> PublishedFiles:
    """PerturbQA's files, with the digests that hold now: tests have files of their own."""
    return PublishedFiles(OFFICIAL_URL, SHA256, "the eight PerturbQA files", "synthpert data fetch")


def load_screen(source: str | Path | LabelTable | None = None) -> tuple[Screen, pd.DataFrame]:
    """Load labels, and what is known of them besides; see `load_labels`.

    Args:
        source: as in `load_labels`, or a `LabelTable`.
    """
    if isinstance(source, LabelTable):
        return read_screen(source)
    source = data_source(source)
    return read_screen(source) if is_table(source) else (PERTURBQA, load_labels(source))


def load_labels(source: str | Path | None = None, *, verify: bool = True) -> pd.DataFrame:
    """Load labels as three-class items, all cell lines, with their own split.

    Args:
        source: a folder with PerturbQA's eight files, a label table or a file that describes one (see
            `benchmarks.screens.table`), or `"sample"` for the rows that ship with the package; None as in
            `data_source`.
        verify: check each file's SHA-256. The rows are checked first, so that an error names the row where it can.

    Returns:
        One row per item, in the files' order, PerturbQA's lines in the order of `CELL_LINES`: `item_id` (str,
        `line|pert|gene`), `cell_line`, `pert`, `gene`, `label` (category of `rewards.LABELS`), `split`
        (category of `train`, `test`; all `train` in a table without that column). Gene symbols are text: `NA` stays
        `NA`.

    Raises:
        InputError: a file is missing, empty or changed, or one of its rows is inconsistent. The message names file
            and row; rows are counted as in a text editor, the header being row 1.
    """
    source = data_source(source)
    if source == SAMPLE:
        from benchmarks.screens.sample import load_sample

        return load_sample()[["item_id", "cell_line", "pert", "gene", "label", "split"]]
    if is_table(source):
        return read_screen(source)[1]
    folder = Path(source)
    if not folder.is_dir():
        near = difflib.get_close_matches(source, (SAMPLE, "perturbqa", *DESCRIBED), n=1)
        remedy = (
            f"did you mean `{near[0]}`?"
            if near
            else "run `synthpert data fetch`, set SYNTHPERT_DATA, or take the sample by giving data as `sample`"
        )
        raise InputError(f"{folder}: no such folder; {remedy}")
    return pd.concat([_load_line(folder, line, verify=verify) for line in CELL_LINES], ignore_index=True)


def _load_line(folder: Path, line: str, *, verify: bool) -> pd.DataFrame:
    paths = folder / f"{line}-de.csv", folder / f"{line}-dir.csv"
    (de, de_bytes), (direction, dir_bytes) = (_read_csv(path) for path in paths)
    split = _split(paths[0], de)
    label = _join_labels(paths, de, direction, split)
    if verify:
        for path, content in zip(paths, (de_bytes, dir_bytes), strict=True):
            _published().check(str(path), path.name, content)
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


def _read_csv(path: Path) -> tuple[pa.Table, bytes]:
    """Read one label file as text columns, and its bytes for the hash."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; all eight PerturbQA files are needed, run `synthpert data fetch`")
    content = path.read_bytes()
    if not content.strip():
        raise InputError(f"{path}: the file is empty; run `synthpert data fetch`")
    header = content.split(b"\n", 1)[0].removeprefix(b"\xef\xbb\xbf").strip().decode("utf-8", "replace")
    if header != ",".join(COLUMNS):
        raise InputError(
            f"{path}, row 1: the header is {header[:80]!r}, not {','.join(COLUMNS)!r}; run `synthpert data fetch`"
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
        raise InputError(f"{path}: not a CSV file of text ({str(error)[:120]}); run `synthpert data fetch`") from error
    if broken:
        raise InputError(f"{path}, {broken[0]}; the file is damaged, run `synthpert data fetch`")
    if table.num_rows == 0:
        raise InputError(f"{path}: no rows below the header; run `synthpert data fetch`")
    table = table.combine_chunks()
    for column in ("pert", "gene"):
        bad = np.flatnonzero(pc.match_substring_regex(table[column], r"^\s*$|[|\s]").to_numpy(zero_copy_only=False))
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


def stats(labels: pd.DataFrame) -> pd.DataFrame:
    """Count rows per cell line.

    Args:
        labels: a frame as from `load_labels`, under a split.

    Returns:
        One row per line and one for all. A symbol that occurs in several lines counts once in the row for all.

        - `rows`, `train`, `test`;
        - `positives` (differentially expressed), `positive_percent`, `upregulated`, `downregulated`;
        - `test_perturbations`: different perturbations of test rows;
        - `genes`: different genes;
        - `held_out_genes`: those of test rows that have no training row in any line.
    """
    trained = frozenset(labels.loc[labels["split"] == "train", "gene"].astype(str))
    positive = labels["label"] != str(Label.NONE)
    frame = labels.assign(positive=positive)
    groups = [(line, frame[frame["cell_line"] == line]) for line in lines_of(labels)]
    rows = []
    for name, group in [*groups, ("all", frame)]:
        test = group[group["split"] == "test"]
        rows.append(
            {
                "cell_line": name,
                "rows": len(group),
                "train": len(group) - len(test),
                "test": len(test),
                "positives": int(group["positive"].sum()),
                "positive_percent": round(100 * float(group["positive"].mean()), 1) if len(group) else float("nan"),
                "upregulated": int((group["label"] == str(Label.UP)).sum()),
                "downregulated": int((group["label"] == str(Label.DOWN)).sum()),
                "test_perturbations": test["pert"].nunique(),
                "genes": group["gene"].nunique(),
                "held_out_genes": len(set(test["gene"].astype(str)) - trained),
            }
        )
    return pd.DataFrame(rows).set_index("cell_line")
