"""Splits: which labelled rows are for training, which for testing, and which are left out.

A split has a name, which configurations, protocols and traces store and compare:

- `official`: the table's own column `split`. In PerturbQA no perturbation is in both parts of a line.
- `holdout:LINE`: all rows of one cell line are test rows, all others are training rows.
- `holdout:perturbations`: a share of the perturbations is held out, in all lines.
- `holdout:genes`: a share of the genes is held out, in all lines.
- `holdout:both`: a share of the perturbations and a share of the genes. A test row has both held out, a training row
  neither. All other rows are left out.

The last three draw a fifth of the symbols with seed 0. `holdout:genes,share=0.3,seed=1` draws otherwise.
`holdout:both,fold=2/5` is for cross-validation: each symbol belongs to one of five folds, and the second is held out.
`holdout:genes,file=FILE` holds out the symbols that a file lists, one a line. A draw depends on the symbols alone,
never on a label.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd

from benchmarks.screens.schema import SPLIT_DTYPE, lines_of
from rewards import InputError

Column = Literal["pert", "gene"]

OFFICIAL: Final = "official"
SHARE: Final = 0.2
_COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "perturbations": ("pert",),
    "genes": ("gene",),
    "both": ("pert", "gene"),
}
HELD_OUT_WORDS: Final = tuple(_COLUMNS)  # no cell line can have such a name
WORDS: Final = {"pert": "perturbations", "gene": "genes"}
HOLDOUT_FORMS: Final = "holdout:LINE, holdout:perturbations, holdout:genes or holdout:both"
FORMS: Final = f"{OFFICIAL}, {HOLDOUT_FORMS}"
SPLIT_HELP: Final = "official, or holdout: with a cell line, perturbations, genes or both"
_OPTIONS: Final = "share (between 0 and 1), fold (such as 1/5), seed (a whole number) or file"
_KEYS: Final = ("share", "fold", "seed", "file")


@dataclass(frozen=True)
class Split:
    """A split, as its name describes it; made by `read_split`.

    Attributes:
        name: as it was given.
        line: the cell line that is held out; None for none.
        columns: the columns that have no value in both training and test rows: `pert`, `gene`, both or neither.
        share: share of each column's symbols that is held out, between 0 and 1.
        fold: which of how many folds of each column's symbols is held out instead, both from 1; None for none.
        seed: seed of their draw, at least 0.
        file: file that lists the held-out symbols instead; None for none.
    """

    name: str
    line: str | None = None
    columns: tuple[Column, ...] = ()
    share: float = SHARE
    fold: tuple[int, int] | None = None
    seed: int = 0
    file: Path | None = None


def read_split(name: str) -> Split:
    """Return the split that a name describes.

    Raises:
        InputError: the name has none of the forms above, or an option is unknown or out of range.
    """
    if name == OFFICIAL:
        return Split(name)
    kind, _, rest = name.partition(":")
    held_out, *options = rest.split(",")
    if kind != "holdout" or not held_out:
        raise InputError(f"split: {name!r} is unknown; use {FORMS}")
    if held_out not in _COLUMNS:
        if options:
            near = _near(held_out, HELD_OUT_WORDS) or f"write holdout:{held_out}"
            raise InputError(f"split: {name!r}: a held-out cell line has no options; {near}")
        return Split(name, line=held_out)
    split = _with_options(Split(name, columns=_COLUMNS[held_out]), options)
    if split.file is not None and (held_out == "both" or len(options) > 1):
        raise InputError(f"split: {name!r}: file goes with perturbations or genes, and without share, fold and seed")
    return split


def _near(held_out: str, words: Sequence[str]) -> str:
    """The question whether the nearest of some words was meant; empty where none is near."""
    found = difflib.get_close_matches(held_out, words, n=1)
    return f"did you mean holdout:{found[0]}?" if found else ""


def _with_options(split: Split, options: list[str]) -> Split:
    found: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in _KEYS or not (equals and value) or key in found:
            raise InputError(
                f"split: {split.name!r}: {option!r} is no option; write {_OPTIONS}, each once, as key=value"
            )
        found[key] = value
    try:
        share, seed = float(found.get("share", split.share)), int(found.get("seed", split.seed))
    except ValueError:
        raise InputError(f"split: {split.name!r}: share or seed is no number; write {_OPTIONS}") from None
    if not 0 < share < 1 or not 0 <= seed < 2**32:
        raise InputError(f"split: {split.name!r}: share or seed is out of range; write {_OPTIONS}")
    if "fold" in found and "share" in found:
        raise InputError(f"split: {split.name!r}: fold and share both say how much is held out; write one of them")
    fold = _read_fold(split.name, found["fold"]) if "fold" in found else None
    file = Path(found["file"]).expanduser() if "file" in found else None
    return Split(split.name, columns=split.columns, share=share, fold=fold, seed=seed, file=file)


def _read_fold(name: str, text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    try:
        fold, folds = int(number), int(of)
    except ValueError:
        fold, folds = 0, 0
    if not 1 <= fold <= folds or folds < 2:
        raise InputError(f"split: {name!r}: fold={text}; write K/N with at least two folds, such as 1/5, K from 1 to N")
    return fold, folds


def apply_split(labels: pd.DataFrame, split: str | Split = OFFICIAL) -> pd.DataFrame:
    """Return labels with their column `split` set for a split.

    Args:
        labels: a frame from `load_labels`.
        split: the split or its name.

    Returns:
        The rows, in the same order. `holdout:both` leaves out the rows that have one of perturbation and gene held out,
        but not the other; all other splits keep every row.

    Raises:
        InputError: the split is unknown, names a line or a symbol without rows, or leaves no training or no test row.
    """
    split = read_split(split) if isinstance(split, str) else split
    if split.line is not None:
        lines = labels["cell_line"].astype(str) == split.line
        if not lines.any():
            own = [OFFICIAL] if (labels["split"] == "test").any() else []
            there = lines_of(labels)
            choices = ", ".join([*own, *(f"holdout:{line}" for line in there)])
            near = (
                _near(split.line, [*HELD_OUT_WORDS, *there])
                or f"use {choices}, or hold out perturbations, genes or both"
            )
            raise InputError(f"split: {split.name!r}, but the labels have no row of {split.line}; {near}")
        if lines.all():
            raise InputError(
                f"split: {split.name!r} leaves no training row, since {split.line} is the only cell line; hold out "
                "perturbations, genes or both"
            )
        return labels.assign(split=pd.Categorical(np.where(lines, "test", "train"), dtype=SPLIT_DTYPE))
    if not split.columns:
        return labels
    held = [labels[column].isin(_held_out(labels, column, split)).to_numpy() for column in split.columns]
    test, crossing = np.all(held, axis=0), np.any(held, axis=0)
    for part, missing in (("test", not test.any()), ("training", crossing.all())):
        if missing:
            raise InputError(
                f"split: {split.name!r} leaves no {part} row; hold out others, or fewer (share, fold, seed or file)"
            )
    kept = test | ~crossing
    named = labels.assign(split=pd.Categorical(np.where(test, "test", "train"), dtype=SPLIT_DTYPE))
    return named if kept.all() else named[kept].reset_index(drop=True)


def _held_out(labels: pd.DataFrame, column: Column, split: Split) -> list[str]:
    """Return the symbols of a column that a split holds out."""
    symbols = np.sort(labels[column].astype(str).unique())
    if split.file is not None:
        return list(_listed(split.file, set(symbols), column))
    if len(symbols) < 2:
        raise InputError(f"split: {split.name!r} needs at least two {WORDS[column]}; the labels have {len(symbols)}")
    # Each column has a stream of its own, so that `both` holds out the perturbations that `perturbations` does.
    drawn = symbols[np.random.default_rng([split.seed, list(WORDS).index(column)]).permutation(len(symbols))]
    if split.fold is None:
        return list(drawn[: min(max(round(split.share * len(symbols)), 1), len(symbols) - 1)])
    fold, folds = split.fold
    if folds > len(symbols):
        raise InputError(f"split: {split.name!r}: the labels have only {len(symbols)} {WORDS[column]}; use fewer folds")
    return list(np.array_split(drawn, folds)[fold - 1])


def _listed(file: Path, known: set[str], column: Column) -> Iterator[str]:
    if not file.is_file():
        raise InputError(f"split: {file}: no such file; list the held-out {WORDS[column]} there, one a line")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"split: {file}: not UTF-8 text; save it as UTF-8") from None
    for row, line in enumerate(lines, start=1):
        if symbol := line.strip():
            if symbol not in known:
                raise InputError(
                    f"{file}, row {row}: {symbol!r} is none of the labels' {WORDS[column]} (letter case counts); "
                    "correct or remove it"
                )
            yield symbol
