"""Columns of a table of labels: cell lines, splits, column types, and a digest of the content."""

import hashlib
from typing import Final

import numpy as np
import pandas as pd

from rewards import LABELS, InputError

CELL_LINES: Final = ("k562", "rpe1", "hepg2", "jurkat")
SPLITS: Final = ("train", "test")
LABEL_DTYPE: Final = pd.CategoricalDtype([str(label) for label in LABELS])
LINE_DTYPE: Final = pd.CategoricalDtype(list(CELL_LINES))
SPLIT_DTYPE: Final = pd.CategoricalDtype(list(SPLITS))


def apply_split(labels: pd.DataFrame, split: str = "official") -> pd.DataFrame:
    """Return the labels with their `split` column set for a named split.

    Args:
        labels: a frame from `load_labels`.
        split: `official` (PerturbQA's own, per line) or `holdout:LINE` (every row of that line is test, every
            row of the other lines is train).

    Returns:
        The same rows with that column.

    Raises:
        InputError: the split is unknown, or its line has no rows.
    """
    line = check_split(split)
    if line is None:
        return labels
    held_out = labels["cell_line"] == line
    if not held_out.any():
        raise InputError(f"split: {split!r}, but the labels have no row of {line}; load that line, or use official")
    return labels.assign(split=pd.Categorical(np.where(held_out, "test", "train"), dtype=SPLIT_DTYPE))


def check_split(split: str) -> str | None:
    """Return the cell line that a split holds out, None for `official`.

    Raises:
        InputError: the split is unknown.
    """
    if split == "official":
        return None
    kind, _, line = split.partition(":")
    if kind != "holdout" or line not in CELL_LINES:
        lines = ", ".join(f"holdout:{name}" for name in CELL_LINES)
        raise InputError(f"split: {split!r} is unknown; use official or one of {lines}")
    return line


def digest(labels: pd.DataFrame) -> str:
    """Return a SHA-256 over items, labels and splits, which identifies the data of an evaluation."""
    columns = ["item_id", "label", "split"]
    hashed = pd.util.hash_pandas_object(labels[columns].astype(str), index=False).to_numpy()
    return hashlib.sha256(hashed.tobytes()).hexdigest()
