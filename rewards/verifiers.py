"""Verifiers: what an answer is checked against, labels or forecasts. How it is scored is the reward's part.

A verifier returns the probability of each label for each row of a batch. A hard label has probability 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from rewards.answer import is_missing
from rewards.batch import column, read_labels
from rewards.errors import InputError
from rewards.labels import LABELS, Label

if TYPE_CHECKING:
    import pandas as pd

# Probabilities in the order of `LABELS`; None if the verifier does not know the item.
Target: TypeAlias = tuple[float, float, float] | None
PROBABILITIES: Final = ("p_up", "p_down", "p_none")
_ONE_HOT: Final[dict[Label, Target]] = {
    Label.UP: (1.0, 0.0, 0.0),
    Label.DOWN: (0.0, 1.0, 0.0),
    Label.NONE: (0.0, 0.0, 1.0),
}
INDEX: Final = {label: at for at, label in enumerate(LABELS)}


class Verifier(Protocol):
    """The interface of `hard`, `SoftVerifier` and `MixedVerifier`."""

    soft: bool

    def targets(self, columns: Mapping[str, Any], n: int) -> list[Target]:
        """Return the label probabilities of the n rows of a batch, from its columns."""


@dataclass(frozen=True)
class HardVerifier:
    """Give the true label probability 1. An unknown or missing label is an `InputError`."""

    soft = False

    def targets(self, columns: Mapping[str, Any], n: int) -> list[Target]:
        """Read the column `label`."""
        given = columns.get("label")
        if given is None:
            raise InputError("label: the batch has no column 'label', which a hard verifier needs; add it")
        return [_ONE_HOT[label] for label in read_labels(given, n)]


hard = HardVerifier()


@dataclass(frozen=True)
class LabelTable:
    """Label probabilities by item. Make one with `label_table` or `read_label_table`.

    Attributes:
        name: the file or model, for messages.
        rows: item id to probabilities in the order of `LABELS`.
    """

    name: str
    rows: Mapping[str, tuple[float, float, float]] = field(repr=False)

    def targets(self, columns: Mapping[str, Any], n: int) -> list[Target]:
        """Look up the column `item_id`; None for an item that is not in the table."""
        return [self.rows.get(str(item)) for item in column(columns, "item_id", n, self.name)]


def label_table(frame: "pd.DataFrame", name: str) -> LabelTable:
    """Make a table from a forecast.

    Args:
        frame: `item_id, p_up, p_down, p_none`, one row per item. The probabilities of an item must sum to 1 within
            0.001; they are then scaled to sum to 1. Other columns are ignored.
        name: the file or model, for messages.

    Raises:
        InputError: there is no row, a column is missing, an item has no id or occurs twice, or its probabilities are
            not three numbers from 0 to 1 that sum to 1.
    """
    import pandas as pd

    for needed in ("item_id", *PROBABILITIES):
        if needed not in frame:
            raise InputError(f"{name}: no column {needed!r}; a soft verifier needs item_id, {', '.join(PROBABILITIES)}")
    if frame.empty:
        raise InputError(f"{name}: no rows; a soft verifier needs the probabilities of the items that it judges")
    unnamed = frame["item_id"].isna()
    if unnamed.any():
        raise InputError(f"{name}, row {int(unnamed.argmax())}: no item_id; give each row one, as in rpe1|AARS|CALR")
    ids = frame["item_id"].astype(str)
    if ids.duplicated().any():
        raise InputError(f"{name}: {ids[ids.duplicated()].iloc[0]} is there twice; keep one row per item")
    numbers = frame[list(PROBABILITIES)].apply(pd.to_numeric, errors="coerce")  # text becomes NaN
    p_NL = numbers.to_numpy(dtype=float, na_value=float("nan"))
    sum_N = p_NL.sum(axis=1)
    wrong = ~((p_NL >= -1e-9).all(axis=1) & (abs(sum_N - 1.0) <= 1e-3))  # NaN is wrong too
    if wrong.any():
        row = int(wrong.argmax())
        given = ", ".join(str(frame[column].iloc[row]) for column in PROBABILITIES)
        raise InputError(f"{name}, row {row}: {ids.iloc[row]} has probabilities {given}, which are not three numbers "
                         "from 0 to 1 that add up to 1; correct the table")  # fmt: skip
    p_NL = p_NL.clip(min=0.0)
    p_NL = p_NL / p_NL.sum(axis=1, keepdims=True)
    rows = {item: (p[0], p[1], p[2]) for item, p in zip(ids, p_NL.tolist(), strict=True)}
    return LabelTable(name, rows)


def read_label_table(path: Path) -> LabelTable:
    """Read a Parquet file with `item_id, p_up, p_down, p_none`; see `label_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file; a soft verifier reads a Parquet file of label probabilities")
    try:
        names = [name for name in pq.read_schema(path).names if name in ("item_id", *PROBABILITIES)]
        frame = pq.read_table(path, columns=names).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:120]}); write it again") from None
    return label_table(frame, str(path))


@dataclass(frozen=True)
class SoftVerifier:
    """Take label probabilities from a table instead of labels. Source: rbio's soft verification, in expectation."""

    table: LabelTable
    soft = True

    def targets(self, columns: Mapping[str, Any], n: int) -> list[Target]:
        """Look up each row's item; None if the table does not have it."""
        return self.table.targets(columns, n)


@dataclass(frozen=True)
class MixedVerifier:
    """Take the label if an item has one, else a table's probabilities. It is for training on unlabelled pairs.

    With an empty table it judges labelled pairs only. A missing label is None, NaN, pandas' NA or an empty text. Any
    other unknown label is an `InputError`.
    """

    table: LabelTable
    soft = False  # a label decides if there is one

    def targets(self, columns: Mapping[str, Any], n: int) -> list[Target]:
        """Read the column `label`, and look up the items without one."""
        labels, without = _labels(columns, n)
        known = iter(
            hard.targets({"label": [v for v, none in zip(labels, without, strict=True) if not none]}, n - sum(without))
        )
        if not any(without):
            return list(known)
        looked_up = self.table.targets(columns, n)
        return [looked_up[row] if none else next(known) for row, none in enumerate(without)]


def _labels(columns: Mapping[str, Any], n: int) -> tuple[Any, list[bool]]:
    """Return the labels of a batch, and which of them are missing."""
    labels = column(columns, "label", n, "mixed verifier")
    return labels, [is_missing(value) or value == "" for value in labels]


@dataclass(frozen=True)
class MixedRates:
    """The rates that `margin` subtracts under a mixed verifier.

    Attributes:
        labelled: for items with a label, how often their gene shows each label among the prompts.
        elsewhere: for other items, the mean of the verifier's table for the gene; see `gene_means`.
    """

    labelled: LabelTable
    elsewhere: LabelTable

    def targets(self, columns: Mapping[str, Any], n: int) -> list[Target]:
        """Look up each row's item."""
        _, without = _labels(columns, n)
        tables = (self.labelled.targets(columns, n), self.elsewhere.targets(columns, n))
        return [tables[none][row] for row, none in enumerate(without)]


def gene_means(table: LabelTable) -> LabelTable:
    """Return, for each item of a table, the mean of the table's probabilities for the item's gene in its cell line.

    `margin` subtracts this mean from the item's own probabilities. What remains is what the table knows beyond the
    gene: over the gene's items, any one answer earns 0 on average. If a gene has only one item in the table, nothing
    remains.

    Raises:
        InputError: an item's id is not `line|pert|gene`.
    """
    sums: dict[tuple[str, str], list[float]] = {}
    key_of: dict[str, tuple[str, str]] = {}
    for item, p in table.rows.items():
        parts = item.split("|")
        if len(parts) != 3:
            raise InputError(
                f"{table.name}: the item {item!r} is not line|pert|gene, from which `margin` reads its gene; "
                "correct the id"
            )
        key_of[item] = key = (parts[0], parts[2])
        total = sums.setdefault(key, [0.0, 0.0, 0.0, 0.0])
        for at, value in enumerate((*p, 1.0)):
            total[at] += value
    means = {key: (up / n, down / n, none / n) for key, (up, down, none, n) in sums.items()}
    return LabelTable(f"gene means of {table.name}", {item: means[key] for item, key in key_of.items()})
