"""Columns of a file of predictions, under our names."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.evidence.corpus import Corpus
from benchmarks.tables import read_table
from rewards import InputError
from rewards.answer import is_missing

KEYS: Final = ("cell_line", "pert", "gene")
# The columns of a file, under our names.
MAPPED: Final = (*KEYS, "answer", "completion", "error", "sample", "seed", *PROBABILITIES, "p_de", "p_dir")
SCORES: Final = frozenset({*PROBABILITIES, "p_de", "p_dir"})
_HUGE: Final = 10**30  # larger than any count, yet fast to print


def named_files(files: Sequence[str], corpus: Corpus) -> list[tuple[str | None, Path]]:
    """Cell line (None where the argument has none) and path of each file.

    Raises:
        InputError: an argument gives a file to a cell line that the labels do not have.
    """
    found: list[tuple[str | None, Path]] = []
    for word in files:
        line, equals, path = str(word).partition("=")
        known = corpus.line_names.get(line.casefold()) if equals else None
        if equals and known is None and not Path(word).exists() and Path(path).is_file():
            raise InputError(f"{word}: {line!r} is none of the cell lines {', '.join(corpus.lines)}; correct it")
        found.append((None, Path(word)) if known is None else (known, Path(path)))
    return found


def read_rows(line: str | None, path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A file's rows under our names, with `file` and `row`; other columns are left out."""
    unknown = [key for key in columns if key not in MAPPED]
    if unknown:
        raise InputError(f"columns: {unknown[0]!r} is unknown; map one of {', '.join(MAPPED)}")
    read = read_table(path, {columns.get(key, key) for key in MAPPED})
    table = read.frame
    for ours, theirs in columns.items():
        if theirs not in table:
            raise InputError(f"{path}: no column {theirs!r} (for {ours}); it has {', '.join(read.names)}")
    kept = {key: table[columns.get(key, key)] for key in MAPPED if columns.get(key, key) in table}
    # A column that is mapped to another name is not also read under its own.
    kept = {key: column for key, column in kept.items() if key in columns or key not in columns.values()}
    if line is not None:
        if "cell_line" in kept:
            raise InputError(f"{path}: has a column of cell lines; give the file without {line}=")
        kept["cell_line"] = pd.Series(line, index=table.index)
    for key in KEYS:
        if key not in kept:
            hint = f"or give LINE={path}" if key == "cell_line" else f"--map {key}=THEIRS"
            raise InputError(f"{path}: no column {key!r}; map it, {hint} (it has {', '.join(read.names)})")
    scores = SCORES & set(kept)
    if not scores | {"answer", "completion"} & set(kept):
        raise InputError(
            f"{path}: has no answer, completion or scores; map one of answer, completion, p_de, p_dir, or "
            f"{', '.join(PROBABILITIES)}"
        )
    if 0 < len(scores & set(PROBABILITIES)) < len(PROBABILITIES):
        raise InputError(f"{path}: has some of {', '.join(PROBABILITIES)}, but not all; map all three")
    if scores & set(PROBABILITIES) and scores - set(PROBABILITIES):
        raise InputError(f"{path}: has both {', '.join(PROBABILITIES)} and p_de or p_dir; map only one kind")
    return pd.DataFrame(kept).assign(file=str(path), row=read.rows)


def text_column(table: pd.DataFrame, key: str) -> npt.NDArray[Any]:
    """(N,) stripped texts, None where empty or absent; whole numbers have no decimal point."""
    found: list[str | None] = []
    for value in table[key].astype(object) if key in table else [None] * len(table):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        nested = isinstance(value, list | dict) or hasattr(value, "tolist")
        refuse_rows(
            table,
            [nested and at == len(found) for at in range(len(table))] if nested else [],
            f"{key} is no text; write text",
        )
        found.append(None if is_missing(value) else str(value).strip() or None)
    return as_objects(found)


def as_objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    """(N,) values unchanged; NumPy would turn some into text and some into an axis."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def whole_number_column(table: pd.DataFrame, key: str, default: int, most: int) -> npt.NDArray[np.int64]:
    """(N,) a column of whole numbers from 0 to `most`, exact to the last digit: they are never converted to floats."""
    if key not in table:
        return np.full(len(table), default, dtype=np.int64)
    values = [_whole_number(value) for value in table[key].astype(object)]
    refuse_rows(table, [value is None for value in values], f"{key} is not a whole number; fix it")
    refuse_rows(table, [not 0 <= (value or 0) <= most for value in values], f"{key} is not within 0 and {most}; fix it")
    return np.array(values, dtype=np.int64)


def _whole_number(value: Any) -> int | None:
    if is_missing(value) or isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
        return int(number) if abs(number) < _HUGE and number == number.to_integral_value() else None
    except ArithmeticError:  # not a number
        return None


def refuse_rows(table: pd.DataFrame, wrong: Any, problem: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if rows.size:
        row = table.iloc[int(rows[0])]
        raise InputError(f"{row['file']}, row {row['row']}: {problem}")
