"""Tables of predicted changes of expression, perturbation x gene: CSV, TSV, Parquet and `.h5ad` files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.imported.columns import KEYS
from benchmarks.evaluation.imported.h5ad import H5adFile
from benchmarks.evaluation.imported.items import as_lines
from benchmarks.evidence.corpus import Corpus
from benchmarks.tables import Table, column_names, numbers, read_table
from rewards import InputError

Floats = npt.NDArray[np.float64]

CHANGE: Final = "change"
MAPPED: Final = (*KEYS, CHANGE)
_LEVELS: Final = 100  # so many values, none of them negative, are levels and not changes
_ABSENT: Final = frozenset(("nan", "na"))  # how a missing number is written, besides nothing


@dataclass(frozen=True)
class Changes:
    """Predicted changes of expression from one file.

    Attributes:
        file: the file.
        rows: (R,) cell line and perturbation of each row, as `line|perturbation`, each once.
        genes: (G,) the genes, each once.
        value_RG: the changes, in the file's unit; NaN where there is none.
    """

    file: Path
    rows: pd.Index
    genes: pd.Index
    value_RG: Floats


def read_changes(
    line: str | None, path: Path, corpus: Corpus, columns: Mapping[str, str], control: str | None
) -> Changes:
    """Read predicted changes of the genes of the test items.

    A file has one of these forms:

    - wide, CSV, TSV or Parquet: a row for each perturbation, whose name stands in the column `pert`, else in the first;
      a column for each gene, named by it; optionally `cell_line`;
    - long: the columns `pert`, `gene`, `change`, and optionally `cell_line`;
    - `.h5ad`: cells x genes. Cells of one perturbation are averaged. Its name stands in the column `pert` of `obs`,
      else in the index of `obs`. The genes are the index of `var`, or the column of `var` that `gene` is mapped to.

    With `control`, the file holds levels of expression. The levels of the perturbation of that name, in the same cell
    line, are subtracted from all others. A perturbation `NAME+control` or `control+NAME`, as GEARS calls it, is NAME.

    Args:
        line: cell line of all rows; None where the file tells it.
        path: the file.
        corpus: labels under a split.
        columns: from our names to those of the file.
        control: name of the unperturbed cells; None if the file holds changes.

    Returns:
        The changes.

    Raises:
        InputError: one of these. The message names the row.
            - the file or a column is missing or unreadable, or the cell line is unknown;
            - a value is neither a finite number nor missing;
            - a table has two rows of one perturbation, or one pair twice;
            - `control` is not there, or no value is negative although no `control` is named.
    """
    genes = frozenset(corpus.test["gene"].astype(str))
    if path.suffix.lower() == ".h5ad":
        rows, read_genes, value_RG = _read_h5ad(line, path, corpus, columns, genes)
    else:
        names = column_names(path)
        for ours, theirs in columns.items():
            if theirs not in names:
                raise InputError(f"{path}: no column {theirs!r} (for {ours}); it has {_some(names)}")
        is_long = all(columns.get(ours, ours) in names for ours in ("gene", CHANGE))
        read = _read_long if is_long else _read_wide
        rows, read_genes, value_RG = read(line, path, corpus, columns, names, genes)
    if rows.empty:
        raise InputError(f"{path}: has no rows; give a table of predicted changes")
    changes = Changes(path, rows, read_genes, value_RG)
    if control is not None:
        return _subtract(changes, control)
    known = value_RG[~np.isnan(value_RG)]
    if known.size >= _LEVELS and (known >= 0).all() and (known > 0).any():
        raise InputError(
            f"{path}: no value is negative, so these are levels of expression and not changes; name the unperturbed "
            "cells among the rows with --control NAME, or subtract their levels"
        )
    return changes


Matrix = tuple[pd.Index, pd.Index, Floats]


def _read_wide(
    line: str | None,
    path: Path,
    corpus: Corpus,
    columns: Mapping[str, str],
    names: Sequence[str],
    genes: frozenset[str],
) -> Matrix:
    pert = columns.get("pert", "pert" if "pert" in names else names[0])
    cell_line = columns.get("cell_line", "cell_line")
    for ours in ("gene", CHANGE):
        if ours in columns:
            raise InputError(f"{path}: has {columns[ours]!r} (for {ours}), but not both gene and change; map both")
    wanted = [name for name in names if name in genes and name not in (pert, cell_line)]
    table = read_table(path, {pert, cell_line, *wanted})
    key = _row_keys(line, table, corpus, pert, cell_line)
    table.refuse(
        key.duplicated(),
        "an earlier row has this perturbation and cell line; leave one out, or, if each row is a pair, map gene and "
        f"{CHANGE}",
        pert,
    )
    value_RG = np.empty((len(key), len(wanted)))
    for at, name in enumerate(wanted):
        value_RG[:, at] = _values(table, name)
    return pd.Index(key), pd.Index(wanted, dtype="str"), value_RG


def _read_long(
    line: str | None,
    path: Path,
    corpus: Corpus,
    columns: Mapping[str, str],
    names: Sequence[str],
    genes: frozenset[str],
) -> Matrix:
    pert, gene, change, cell_line = (columns.get(key, key) for key in ("pert", "gene", CHANGE, "cell_line"))
    if pert not in names:
        raise InputError(f"{path}: no column {pert!r}; map it with --map pert=THEIRS (it has {_some(names)})")
    table = read_table(path, {pert, gene, change, cell_line})
    key = _row_keys(line, table, corpus, pert, cell_line)
    gene_N = _text(table, gene)
    value_N = _values(table, change)
    table.refuse(
        (key + "|" + gene_N).duplicated(),
        "an earlier row has this perturbation, gene and cell line; leave one out",
        pert,
    )
    row_N, rows = pd.factorize(key)
    kept = gene_N.isin(genes).to_numpy()
    column_N, used = pd.factorize(gene_N[kept])
    value_RG = np.full((len(rows), len(used)), np.nan)
    value_RG[row_N[kept], column_N] = value_N[kept]
    return pd.Index(rows), pd.Index(used, dtype="str"), value_RG


def _read_h5ad(
    line: str | None, path: Path, corpus: Corpus, columns: Mapping[str, str], genes: frozenset[str]
) -> Matrix:
    with H5adFile(path) as file:
        if CHANGE in columns:
            raise InputError(f"{path}: {columns[CHANGE]!r} (for {CHANGE}): the changes are the matrix X; leave it out")
        named = file.columns("obs")
        pert = columns.get("pert", "pert" if "pert" in named else None)
        cell_line = columns.get("cell_line", "cell_line" if "cell_line" in named else None)
        symbols = pd.Series(file.text("var", columns.get("gene")), dtype="str")
        wanted = np.flatnonzero(symbols.isin(genes))
        if (again := symbols.iloc[wanted].duplicated()).any():
            raise InputError(
                f"{path}: var has the gene {symbols.iloc[wanted][again.to_numpy()].iloc[0]!r} twice; leave one out"
            )
        name_N = pd.Series(file.text("obs", pert), dtype="str").str.strip()
        line_N = None if cell_line is None else pd.Series(file.text("obs", cell_line), dtype="str")
        key_N = _keys(line, path, corpus, name_N, line_N)
        row_N, rows = pd.factorize(key_N)
        value_RG = file.mean(row_N.astype(np.int64), len(rows), wanted.astype(np.int64))
        if np.isinf(value_RG).any():
            raise InputError(f"{path}: a value of X is infinite; correct it")
        return pd.Index(rows), pd.Index(symbols.iloc[wanted].to_numpy(), dtype="str"), value_RG


def _row_keys(line: str | None, table: Table, corpus: Corpus, pert: str, cell_line: str) -> pd.Series:
    """(N,) `line|perturbation` of each row of a table."""
    lines = _text(table, cell_line) if cell_line in table.frame else None
    return _keys(line, table.path, corpus, _text(table, pert), lines)


def _keys(line: str | None, path: Path, corpus: Corpus, pert: pd.Series, lines: pd.Series | None) -> pd.Series:
    if (line is None) == (lines is None):
        if line is None:
            raise InputError(f"{path}: no cell line; give LINE={path}, or map it with --map cell_line=THEIRS")
        raise InputError(f"{path}: has a column of cell lines; give the file without {line}=")
    if lines is None:
        return str(line) + "|" + pert
    return as_lines(lines, corpus) + "|" + pert


def _text(table: Table, name: str) -> pd.Series:
    """(N,) a column of text, without white space around it."""
    column = table.frame[name]
    if not (pd.api.types.is_string_dtype(column.dtype) or isinstance(column.dtype, pd.CategoricalDtype)):
        raise InputError(
            f"{table.path}: column {name!r} holds {column.dtype}, not text; name the perturbations' column with --map "
            "pert=THEIRS (from pandas, give the index a name: rename_axis('pert'))"
        )
    table.refuse(column.isna(), f"{name} is empty; fill it in, or leave the row out")
    return column.astype("str").str.strip()


def _values(table: Table, name: str) -> Floats:
    """(N,) a column of changes, NaN where there is none."""
    column = table.frame[name]
    found = numbers(column)
    strange = np.flatnonzero(np.isnan(found) & column.notna().to_numpy())
    said = column.iloc[strange].astype("str").str.strip().str.casefold().isin(_ABSENT).to_numpy()
    wrong = np.isinf(found)
    wrong[strange[~said]] = True
    table.refuse(wrong, "not a finite number; correct it, or leave it empty", name)
    return found


def _subtract(changes: Changes, control: str) -> Changes:
    """Subtract the levels of the unperturbed cells from those of all others in the same cell line."""
    line_R, pert_R = (
        pd.Series(part, dtype="str") for part in zip(*(row.split("|", 1) for row in changes.rows), strict=True)
    )
    is_control = (pert_R == control).to_numpy()
    at = {line: row for row, line in enumerate(line_R) if is_control[row]}
    for line in line_R.unique():
        if line not in at:
            raise InputError(f"{changes.file}: {line} has no row {control!r} (for --control); name the one it has")
    plain = pert_R.str.removesuffix(f"+{control}").str.removeprefix(f"{control}+")
    value_RG = changes.value_RG - changes.value_RG[[at[line] for line in line_R]]
    rows = pd.Index((line_R + "|" + plain)[~is_control])
    if rows.has_duplicates:
        raise InputError(f"{changes.file}: has {rows[rows.duplicated()][0]!r} under two names; leave one out")
    return Changes(changes.file, rows, changes.genes, value_RG[~is_control])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
