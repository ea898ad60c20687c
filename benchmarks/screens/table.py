"""Label tables: a screen of one's own, read from a CSV, TSV or Parquet file as a configuration describes it.

Symbols are text and are never changed, unless the user maps them: letter case counts, `NA` is a gene, `1-Mar` stays.
Rows are checked as a whole, not one by one, so that millions load in seconds.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.config import read_yaml
from benchmarks.files import file_sha256
from benchmarks.keys import from_keys
from benchmarks.screens.schema import LABEL_DTYPE, SPLIT_DTYPE, SPLITS
from benchmarks.screens.screen import Screen
from benchmarks.screens.splits import HELD_OUT_WORDS
from benchmarks.screens.symbols import looks_like_date
from benchmarks.tables import KINDS, Table, label_words, normalize_word, numbers, read_table, table_kind
from rewards import LABELS, InputError, Label

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DESCRIPTIONS: Final = (".yaml", ".yml")
COLUMNS: Final = ("pert", "gene", "label", "cell_line", "split", "log_fold_change", "fdr", "p_adj")
_LABELS: Final = [str(label) for label in LABELS]
# What a missing value looks like in a column of p values; DESeq2 writes NA where it did not test.
_MISSING: Final = frozenset(("", "na", "nan", "null", "none", "<na>", "n/a"))
_SHOWN: Final = 5  # symbols or words named in a note
_ONE_LINE: Final = (
    "No column is read as the cell line, so all rows count as one line. If a column tells it, map that one: --map "
    "cell_line=THEIRS (in YAML columns: {cell_line: THEIRS})"
)
_CELLS: Final = "cells"  # the line of a table that names none


@dataclass(frozen=True)
class LabelTable:
    """A label table, as a configuration describes it. Each field is a key of the file that describes a screen.

    Attributes:
        file: CSV, TSV or Parquet file, the former two also as `.gz`. Relative to the file that describes it.
        name: what reports call the screen; the file's name by default.
        notice: licence and attribution, which reports show.
        cell_line: name of the only cell line, where the file has no such column.
        columns: from our names (`COLUMNS`) to those of the file.
        labels: from the file's words to our labels.
        lines: from cell lines to what prompts call them.
        symbols: table with the columns `from` and `to`: symbols or ids in the file, and what they become.
        duplicates: what becomes of several rows of one pair. `error` refuses them. `majority` keeps the commonest label
            and leaves out pairs with a tie. `drop` leaves out pairs with different labels. Both keep one row of a pair.
        max_fdr: largest adjusted p value at which a gene counts as changed, in [0, 1].
        min_log_fold_change: smallest size of the log fold change at which it does, at least 0.
        unlabelled: table of pairs whose labels others withhold. The split `official` tests these, and trains on all
            labelled rows. Relative to the file that describes it.
    """

    file: str = field(metadata={"help": "CSV, TSV or Parquet file with pert, gene and label"})
    name: str = field(default="", metadata={"help": "what reports call the screen"})
    notice: str = field(default="", metadata={"help": "licence and attribution"})
    cell_line: str = field(default=_CELLS, metadata={"help": "name of the only cell line"})
    columns: dict[str, Any] = field(default_factory=dict, metadata={"help": "OURS: THEIRS"})
    labels: dict[str, Any] = field(default_factory=dict, metadata={"help": "THEIRS: OURS"})
    lines: dict[str, Any] = field(default_factory=dict, metadata={"help": "LINE: what prompts call it"})
    symbols: str | None = field(default=None, metadata={"help": "table of symbols to change: from, to"})
    duplicates: Literal["error", "majority", "drop"] = field(
        default="error", metadata={"help": "error, majority, drop"}
    )
    max_fdr: float = field(default=0.05, metadata={"help": "largest adjusted p value of a change"})
    min_log_fold_change: float = field(default=0.0, metadata={"help": "smallest log fold change of a change"})
    unlabelled: str | None = field(default=None, metadata={"help": "table of pairs that official tests without labels"})

    def __post_init__(self) -> None:
        for key in ("columns", "labels", "lines"):  # YAML reads 1 and -1 as numbers
            object.__setattr__(self, key, {str(name): str(value) for name, value in getattr(self, key).items()})
        where = f"{self.file}: "
        for ours in self.columns:
            if ours not in COLUMNS:
                raise InputError(f"{where}columns: {ours!r} is unknown; map one of {', '.join(COLUMNS)}")
        for theirs, label in self.labels.items():
            if label not in _LABELS:
                raise InputError(f"{where}labels: {theirs!r} means {label!r}; use one of {', '.join(_LABELS)}")
        if not 0 <= self.max_fdr <= 1 or not self.min_log_fold_change >= 0:
            raise InputError(f"{where}max_fdr must lie within 0 and 1, min_log_fold_change at 0 or above; correct it")


def is_table(source: str | Path) -> bool:
    """Tell whether a source of labels is a label table or the description of one, by its suffix."""
    path = Path(source)
    return path.suffix.lower() in DESCRIPTIONS or table_kind(path) in KINDS


def read_screen(source: str | Path | LabelTable) -> tuple[Screen, pd.DataFrame]:
    """Read a screen from a label table.

    Args:
        source: the table, a YAML file with the keys of `LabelTable`, or a `LabelTable`.

    Returns:
        The screen, and a row per labelled pair in the file's order: `item_id, cell_line, pert, gene, label, split` as
        in `load_labels`. All rows are `train` where the file has no column `split`.

    Raises:
        InputError: a file or column is missing, or a row cannot be used. The message names file and row, which is
            counted as in a text editor, the header being row 1 (in Parquet from 1).
    """
    described = source if isinstance(source, LabelTable) else _described(Path(source))
    path = Path(described.file).expanduser()
    if not path.is_file() and not isinstance(source, LabelTable) and path != Path(source):
        raise InputError(f"{path}: no such file, but {source} names it; put it there, or correct the key file")
    table = read_table(path, {described.columns.get(name, name) for name in COLUMNS})
    if not len(table.rows):
        raise InputError(f"{path}: has no rows; give a table of labels")
    return _screen_of(described, _Columns(table, described.columns))


def _described(path: Path) -> LabelTable:
    if path.suffix.lower() not in DESCRIPTIONS:
        return LabelTable(str(path))
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a table of labels, or a YAML file that describes one")
    found: LabelTable = from_keys(LabelTable, read_yaml(path), str(path))
    symbols, unlabelled = (name and _below(path, name) for name in (found.symbols, found.unlabelled))
    return replace(found, file=_below(path, found.file), symbols=symbols, unlabelled=unlabelled)


def _below(path: Path, name: str) -> str:
    """Return a file that a description names; a relative name starts at the description's folder."""
    return str(path.parent / Path(name).expanduser())


def table_file(source: str | Path) -> Path:
    """Return the file of a label table, or of the one that a file describes."""
    return Path(_described(Path(source)).file)


def table_sha256(source: str | Path) -> str:
    """Return a SHA-256 over a label table, the file that describes it, and its table of symbols.

    Raises:
        InputError: one of the files is missing, or the description cannot be read.
    """
    described = _described(Path(source))
    files = [Path(source), *(Path(name) for name in (described.file, described.symbols) if name is not None)]
    if described.unlabelled is not None and Path(described.unlabelled).is_file():  # only predictions of it need it
        files.append(Path(described.unlabelled))
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the label table that {source} names")
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


@dataclass(frozen=True)
class _Column:
    """A column of text as codes: `codes` (N,) point into `values` (V,), each of which is there once."""

    codes: Ints
    values: list[str]

    def where(self, wrong: Sequence[bool]) -> Bools:
        """Return which rows have one of the values marked, (N,)."""
        return np.asarray(wrong, dtype=bool)[self.codes]

    def mapped(self, to: Mapping[str, str]) -> "_Column":
        """Return the column with some values replaced."""
        code_V, values = pd.factorize(np.array([to.get(value, value) for value in self.values], dtype=object))
        return _Column(code_V[self.codes], list(values))

    def text(self) -> pa.Array:
        """Return the values of the rows, (N,)."""
        return pa.DictionaryArray.from_arrays(pa.array(self.codes), pa.array(self.values, pa.string())).cast(
            pa.string()
        )


class _Columns:
    """The columns of a file under our names."""

    def __init__(self, table: Table, mapped: Mapping[str, str]) -> None:
        self.table = table
        self._mapped = mapped
        for ours, theirs in mapped.items():
            if theirs not in table.frame:
                raise InputError(f"{table.path}: no column {theirs!r} (for {ours}); it has {', '.join(table.names)}")

    def theirs(self, ours: str) -> str | None:
        """Return the file's name of a column of ours; None where the file has none."""
        name = self._mapped.get(ours, ours)
        taken = ours not in self._mapped and name in self._mapped.values()
        return None if taken or name not in self.table.frame else name

    def need(self, ours: str) -> str:
        """Return the file's name of a column; raise where it has none."""
        name = self.theirs(ours)
        if name is None:
            raise InputError(
                f"{self.table.path}: no column {ours!r}; map it with columns: {{{ours}: THEIRS}} (--map "
                f"{ours}=THEIRS), it has {', '.join(self.table.names)}"
            )
        return name

    def text(self, ours: str) -> _Column:
        """Return a column of text; whole numbers count as text."""
        name = self.need(ours)
        column = self.table.frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype("str")
        self.table.refuse(column.isna(), f"{name} is empty; fill it in, or remove the row")
        whole = ours == "label" and pd.api.types.is_float_dtype(column.dtype) and (column == column.round()).all()
        if whole:  # 1.0 for 1, as pandas writes a column that once had gaps
            column = column.astype(np.int64)
        if pd.api.types.is_integer_dtype(column.dtype):
            column = column.astype("str")
        if not (pd.api.types.is_string_dtype(column.dtype) or column.dtype == object):
            raise InputError(f"{self.table.path}: column {name!r} is {column.dtype}, not text; save it as text")
        codes, values = pd.factorize(column)
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{self.table.path}: column {name!r} is not text; save it as text")
        return _Column(codes.astype(np.int64), [str(value) for value in values])

    def numbers(self, ours: str) -> npt.NDArray[np.float64]:
        """Return a column of numbers, NaN where a value is missing."""
        name = self.need(ours)
        column = self.table.frame[name]
        found = numbers(column)
        strange = np.flatnonzero(np.isnan(found) & column.notna().to_numpy())
        if strange.size and not pd.api.types.is_numeric_dtype(column.dtype):
            said = column.iloc[strange].astype("str").str.strip().str.casefold().isin(_MISSING).to_numpy()
            wrong = np.zeros(len(column), dtype=bool)
            wrong[strange[~said]] = True
            self.table.refuse(wrong, "not a number; correct it, or leave it empty", name)
        return found


def _screen_of(described: LabelTable, columns: _Columns) -> tuple[Screen, pd.DataFrame]:
    """Turn the columns of a table into labels, and say what was noticed."""
    notes: list[str] = []
    pert, gene = _symbols(columns, "pert"), _symbols(columns, "gene")
    if described.symbols is not None:
        to = read_symbols(Path(described.symbols))
        changed = sorted({*pert.values, *gene.values} & {*to})
        notes.append(f"Symbols that {described.symbols} changes: {len(changed):,}.")
        pert, gene = pert.mapped(to), gene.mapped(to)
    notes += _dates(pert, gene)
    line = _lines(described, columns, len(pert.codes))
    label_N, tested_N = _label_codes(described, columns, notes)
    has_split = columns.theirs("split") is not None
    if has_split and described.unlabelled is not None:
        raise InputError(
            f"{columns.table.path}: has a column split, but unlabelled names the test rows; remove one of the two"
        )
    split_N = _split_codes(columns) if has_split else np.zeros(len(label_N), dtype=np.int64)
    pair_N = (line.codes * len(pert.values) + pert.codes) * len(gene.values) + gene.codes
    keep, label_N = _once(described, columns, pair_N, label_N, split_N, tested_N, (line, pert, gene), notes)
    line, pert, gene = (_Column(one.codes[keep], one.values) for one in (line, pert, gene))
    texts = [one.text() for one in (line, pert, gene)]
    lines = pd.CategoricalDtype([line.values[code] for code in np.unique(line.codes)])
    frame = pd.DataFrame(
        {
            "item_id": pc.binary_join_element_wise(*texts, "|").to_pandas(),
            "cell_line": pd.Categorical.from_codes(np.unique(line.codes, return_inverse=True)[1], dtype=lines),
            "pert": texts[1].to_pandas(),
            "gene": texts[2].to_pandas(),
            "label": pd.Categorical.from_codes(label_N[keep], dtype=LABEL_DTYPE),
            "split": pd.Categorical.from_codes(split_N[keep], dtype=SPLIT_DTYPE),
        }
    )
    name = described.name or Path(described.file).name.partition(".")[0]
    has_split = has_split or described.unlabelled is not None
    screen = Screen(name, dict(described.lines), described.notice, tuple(notes), has_split, _unread(described, columns))
    return screen, frame


def _unread(described: LabelTable, columns: _Columns) -> str:
    """Name the columns that no key of ours reads; one of them may be the cell line under another name."""
    labelled = columns.theirs("label") is not None
    statistics = ("log_fold_change", "fdr", "p_adj")
    read = {columns.theirs(name) for name in COLUMNS if not (labelled and name in statistics)}
    unread = [name for name in columns.table.names if name not in read]
    if not unread:
        return ""
    told = f"Columns that are not read: {', '.join(unread)}."
    named = columns.theirs("cell_line") is not None or described.cell_line != _CELLS
    return told if named else f"{told} {_ONE_LINE}."


def tests_unlabelled(source: str | Path) -> bool:
    """Tell whether the split `official` of a source of labels tests pairs without labels."""
    return is_table(source) and _described(Path(source)).unlabelled is not None


def read_unlabelled(source: str | Path) -> pd.DataFrame:
    """Read the pairs without labels that the description of a table names.

    Args:
        source: the description, a YAML file; `tests_unlabelled` is true of it.

    Returns:
        `item_id, cell_line, pert, gene, label` in the file's order; the label is empty.

    Raises:
        InputError: the file or a column is missing, or a row cannot be used. The message names file and row.
    """
    described = _described(Path(source))
    path = Path(str(described.unlabelled)).expanduser()
    names = {ours: theirs for ours, theirs in described.columns.items() if ours in ("pert", "gene", "cell_line")}
    columns = _Columns(read_table(path, {names.get(one, one) for one in ("pert", "gene", "cell_line")}), names)
    if not len(columns.table.rows):
        raise InputError(f"{path}: has no rows; give a table of pairs")
    pert, gene = _symbols(columns, "pert"), _symbols(columns, "gene")
    if described.symbols is not None:
        to = read_symbols(Path(described.symbols))
        pert, gene = pert.mapped(to), gene.mapped(to)
    line = _lines(replace(described, lines={}), columns, len(pert.codes))
    texts = {name: one.text().to_pandas() for name, one in (("cell_line", line), ("pert", pert), ("gene", gene))}
    frame = pd.DataFrame(texts)
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    columns.table.refuse(frame["item_id"].duplicated(), "the pair stands there twice; give it once")
    return frame.assign(label="")


def _symbols(columns: _Columns, ours: str) -> _Column:
    column = columns.text(ours)
    broken = [not value or "|" in value or any(map(str.isspace, value)) for value in column.values]
    columns.table.refuse(
        column.where(broken), "a symbol has no white space and no |; correct it, or remove the row", columns.need(ours)
    )
    return column


def read_symbols(path: Path) -> dict[str, str]:
    """Read a table of symbols: what symbols or ids become.

    Args:
        path: table with the columns `from`, each value of which is there once, and `to`.

    Raises:
        InputError: the table cannot be read, a column is missing, or a row cannot be used; the message names the row.
    """
    columns = _Columns(read_table(path, ("from", "to")), {})
    for name in ("from", "to"):
        if name not in columns.table.frame:
            raise InputError(f"{path}: no column {name!r}; a table of symbols has the columns from and to")
    before, after = columns.text("from"), _symbols(columns, "to")
    repeated = pd.Series(before.codes).duplicated().to_numpy()
    columns.table.refuse(repeated, "stands there twice; give each symbol once", "from")
    texts = (column.text().to_pylist() for column in (before, after))
    return dict(zip(*texts, strict=True))


def _dates(pert: _Column, gene: _Column) -> list[str]:
    """Point out symbols that a spreadsheet may have made into dates."""
    found = sorted(symbol for symbol in {*pert.values, *gene.values} if looks_like_date(symbol))
    if not found:
        return []
    named = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    return [
        f"Symbols that look like a date which a spreadsheet made of a gene symbol: {named}. They are kept as they are; "
        "`symbols` can change them."
    ]


def _lines(described: LabelTable, columns: _Columns, n: int) -> _Column:
    """Return the cell line of each row."""
    path = columns.table.path
    if columns.theirs("cell_line") is None:
        column = _Column(np.zeros(n, dtype=np.int64), [described.cell_line])
    else:
        column = columns.text("cell_line")
    for name in column.values:
        problem = ""
        if not name or name != name.strip() or set(name) & set("|,\n\r") or name in HELD_OUT_WORDS:
            problem = f"cell line {name!r} has white space around it, a | or a comma, or is a word of splits"
        elif sum(name.casefold() == other.casefold() for other in column.values) > 1:
            problem = f"cell line {name!r} is also written in another letter case"
        if problem:
            at = int(np.flatnonzero(column.codes == column.values.index(name))[0])
            raise InputError(f"{path}, row {columns.table.rows[at]}: {problem}; rename it")
    for name in described.lines:
        if name not in column.values:
            raise InputError(f"{path}: lines: {name!r} is no cell line of the table; it has {', '.join(column.values)}")
    return column


def _label_codes(described: LabelTable, columns: _Columns, notes: list[str]) -> tuple[Ints, Bools]:
    """Return the label code of each row, and whether the row has a label: a gene that was not tested has none."""
    if columns.theirs("label") is None:
        if columns.theirs("log_fold_change") is None:
            raise InputError(
                f"{columns.table.path}: no column 'label', nor statistics in its place; map it with columns: {{label: "
                "THEIRS} (--map label=THEIRS), or map log_fold_change and fdr or p_adj, it has "
                f"{', '.join(columns.table.names)}"
            )
        return _by_threshold(described, columns, notes)
    column = columns.text("label")
    meaning = label_words(described.labels)
    words = [meaning.get(normalize_word(value), "") for value in column.values]
    if unknown := [value for value, word in zip(column.values, words, strict=True) if not word]:
        wrong = column.where([not word for word in words])
        columns.table.refuse(wrong, _what_words_mean(unknown), columns.need("label"))
    code_V = np.array([_LABELS.index(word) for word in words], dtype=np.int64)
    return code_V[column.codes], np.ones(len(column.codes), dtype=bool)


def _what_words_mean(unknown: Sequence[str]) -> str:
    """How to explain words of a column of labels, on the command line and in a description."""
    shown = unknown[:_SHOWN]
    options = " ".join(f"--label {shlex.quote(f'{value}=LABEL')}" for value in shown)
    more = f" and {len(unknown) - _SHOWN} more words" if len(unknown) > _SHOWN else ""
    return (
        f"no label of ours; say what the words mean with {options}{more} (in YAML labels: "
        f"{{{', '.join(f'{value}: LABEL' for value in shown)}}}), LABEL being one of {', '.join(_LABELS)}. Quote "
        f'what has a space: --label "WORD={Label.NONE}"'
    )


def _by_threshold(described: LabelTable, columns: _Columns, notes: list[str]) -> tuple[Ints, Bools]:
    """Label rows by statistics: changed where the adjusted p value is small and the log fold change is large."""
    table = columns.table
    names = [name for name in ("fdr", "p_adj") if columns.theirs(name) is not None]
    if len(names) != 1:
        raise InputError(
            f"{table.path}: has {'both fdr and p_adj' if names else 'neither fdr nor p_adj'}; map one of them"
        )
    change_N, fdr_N = columns.numbers("log_fold_change"), columns.numbers(names[0])
    with np.errstate(invalid="ignore"):
        table.refuse(
            (fdr_N < 0) | (fdr_N > 1), "an adjusted p value lies within 0 and 1; correct it", columns.need(names[0])
        )
        significant = fdr_N <= described.max_fdr
        table.refuse(
            significant & np.isnan(change_N),
            "no log fold change, but the change is significant; fill it in",
            columns.need("log_fold_change"),
        )
        changed = significant & (np.abs(change_N) >= described.min_log_fold_change) & (change_N != 0)
        label_N = np.where(changed & (change_N > 0), _LABELS.index(Label.UP), _LABELS.index(Label.NONE))
        label_N = np.where(changed & (change_N < 0), _LABELS.index(Label.DOWN), label_N)
    tested_N = ~np.isnan(fdr_N)
    if not tested_N.all():
        notes.append(
            f"Rows left out because they have no adjusted p value, so were not tested: {int((~tested_N).sum()):,}."
        )
    if not tested_N.any():
        raise InputError(f"{table.path}: no row has an adjusted p value; map the right column to {names[0]}")
    return label_N.astype(np.int64), tested_N


def _split_codes(columns: _Columns) -> Ints:
    column = columns.text("split")
    wrong = [value not in SPLITS for value in column.values]
    columns.table.refuse(column.where(wrong), f"write {' or '.join(SPLITS)}", columns.need("split"))
    code_V = np.array([SPLITS.index(value) for value in column.values], dtype=np.int64)
    return code_V[column.codes]


def _once(
    described: LabelTable,
    columns: _Columns,
    pair_N: Ints,
    label_N: Ints,
    split_N: Ints,
    tested_N: Bools,
    names: tuple[_Column, _Column, _Column],
    notes: list[str],
) -> tuple[Ints, Ints]:
    """Keep one row of each pair.

    Args:
        described: says what becomes of repeated pairs.
        columns: the file's, for errors.
        pair_N, label_N, split_N: (N,) codes of each row's pair, label and split.
        tested_N: (N,) whether the row has a label.
        names: cell line, perturbation and gene, for errors.
        notes: gains what was left out.

    Returns:
        The rows to keep, in order, and (N,) the label codes to use.
    """
    rows = np.flatnonzero(tested_N)
    order = rows[np.argsort(pair_N[rows], kind="stable")]  # rows of one pair stand together, in the file's order
    starts = np.append(True, pair_N[order][1:] != pair_N[order][:-1])
    if starts.all():
        return rows, label_N
    group_M = np.cumsum(starts) - 1
    first_M = order[starts][group_M]  # the first row of each row's pair
    conflicting = split_N[order] != split_N[first_M]
    wrong = ~starts if described.duplicates == "error" else conflicting
    if wrong.any():
        raise _repeat_error(described, columns, order[wrong], first_M[wrong], names, label_N, split_N)
    counts_GL = np.zeros((int(group_M[-1]) + 1, len(LABELS)), dtype=np.int64)
    np.add.at(counts_GL, (group_M, label_N[order]), 1)
    most_G = counts_GL.max(axis=1)
    several_G = (counts_GL > 0).sum(axis=1) > 1
    left_out_G = (counts_GL == most_G[:, None]).sum(axis=1) > 1 if described.duplicates == "majority" else several_G
    label_N = label_N.copy()
    label_N[order[starts]] = counts_GL.argmax(axis=1)
    repeated = int((~starts).sum())
    notes.append(
        f"Rows that repeat a pair: {repeated:,}. Pairs with different labels: {int(several_G.sum()):,}. Left out of "
        f"these (duplicates: {described.duplicates}): {int(left_out_G.sum()):,}."
    )
    if left_out_G.all():
        raise InputError(f"{columns.table.path}: duplicates: {described.duplicates} leaves no pair; correct the labels")
    return np.sort(order[starts][~left_out_G]), label_N


def _repeat_error(
    described: LabelTable,
    columns: _Columns,
    repeats: Ints,
    firsts: Ints,
    names: tuple[_Column, _Column, _Column],
    label_N: Ints,
    split_N: Ints,
) -> InputError:
    """Return an error that names the first of these repeated rows, and the row that it repeats."""
    table, at = columns.table, int(repeats.argmin())
    row, first = int(repeats[at]), int(firsts[at])
    line, pert, gene = (one.values[one.codes[row]] for one in names)
    problem, remedy = "", "remove one of the rows, or set duplicates: majority or drop"
    if _ONE_LINE in _unread(described, columns):
        remedy += f". {_ONE_LINE}"
    if label_N[row] != label_N[first]:
        problem = f" with another label ({_LABELS[label_N[row]]}, there {_LABELS[label_N[first]]})"
    if split_N[row] != split_N[first]:
        problem, remedy = " in another split", "give the pair one split"
    return InputError(
        f"{table.path}, row {table.rows[row]}: {pert} and {gene} in {line} stand also in row {table.rows[first]}"
        f"{problem}; {remedy}"
    )
