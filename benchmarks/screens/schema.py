"""Columns of a table of labels: PerturbQA's cell lines, column types, and a digest of the content."""

import hashlib
from typing import Final

import pandas as pd

from rewards import LABELS

CELL_LINES: Final = ("k562", "rpe1", "hepg2", "jurkat")  # PerturbQA's
SPLITS: Final = ("train", "test")
LABEL_DTYPE: Final = pd.CategoricalDtype([str(label) for label in LABELS])
LINE_DTYPE: Final = pd.CategoricalDtype(list(CELL_LINES))
SPLIT_DTYPE: Final = pd.CategoricalDtype(list(SPLITS))


def lines_of(rows: pd.DataFrame) -> list[str]:
    """Return the cell lines that rows have: in the order of the column's categories, else as they first occur."""
    column = rows["cell_line"]
    there = [str(line) for line in column.unique()]
    if isinstance(column.dtype, pd.CategoricalDtype):
        order = [str(line) for line in column.cat.categories]
        there.sort(key=order.index)
    return there


def digest(labels: pd.DataFrame) -> str:
    """Return a SHA-256 over items, labels and splits, which identifies the data of an evaluation."""
    columns = ["item_id", "label", "split"]
    hashed = pd.util.hash_pandas_object(labels[columns].astype(str), index=False).to_numpy()
    return hashlib.sha256(hashed.tobytes()).hexdigest()
