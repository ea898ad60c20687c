"""Items shown with their completions: some drawn at random, and those on which two systems differ most."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.statistics.alignment import common_items
from benchmarks.statistics.arrays import Floats, PredictionArrays
from rewards import LABELS

N_RANDOM: Final = 5
N_MOST_DIFFERENT: Final = 20
SEED: Final = 0


@dataclass(frozen=True)
class Item:
    """A labelled pair that a report shows."""

    item_id: str
    cell_line: str
    pert: str
    gene: str
    label: str


@dataclass(frozen=True)
class DifferingItem:
    """An item on which two systems differ.

    Attributes:
        item: which.
        right_a, right_b: share of training runs in which each is right.
        p_a, p_b: probability of the true label, mean over runs; NaN where there is none.
    """

    item: Item
    right_a: float
    right_b: float
    p_a: float
    p_b: float


@dataclass(frozen=True)
class MostDifferent:
    """Where two systems differ most.

    Attributes:
        a, b: their names.
        n_a_only, n_b_only: items on which one is right more often than the other.
        items: at most twenty, those that differ most first.
    """

    a: str
    b: str
    n_a_only: int
    n_b_only: int
    items: Sequence[DifferingItem]


def random_items(models: Sequence[PredictionArrays]) -> list[Item]:
    """Draw five of the items that all models were asked: the same of the same items, whatever their order."""
    if not models:
        return []
    runs = reduce(lambda a, b: common_items(a, b)[0], models)
    by_id = runs.item_id.argsort()
    n = min(N_RANDOM, len(by_id))
    return [_describe(runs, at) for at in by_id[np.random.default_rng(SEED).choice(len(by_id), size=n, replace=False)]]


def most_different(a: tuple[str, PredictionArrays], b: tuple[str, PredictionArrays]) -> MostDifferent:
    """Find the items on which two systems differ most, of those that both were asked.

    Right against wrong comes first (in the share of training runs), then the difference in the probability given to
    the true label, then the item's id. An item without probabilities on either side has no such difference.

    Args:
        a: name and predictions of the first system.
        b: of the second, aligned to it (see `align_all`).
    """
    (name_a, runs_a), (name_b, runs_b) = a, b
    runs_a, runs_b, _ = common_items(runs_a, runs_b)
    right_a, right_b = (_share_right(runs) for runs in (runs_a, runs_b))
    p_a, p_b = (_true_probability(runs) for runs in (runs_a, runs_b))
    usable = runs_a.scorable & runs_b.scorable
    gap_right = np.where(usable, right_a - right_b, 0.0)
    gap_p = np.nan_to_num(np.where(usable, p_a - p_b, 0.0))
    differing = np.flatnonzero((gap_right != 0) | (gap_p != 0))
    rank = np.empty(len(usable), dtype=np.intp)
    rank[runs_a.item_id.argsort()] = np.arange(len(usable))
    order = np.lexsort((rank[differing], -np.abs(gap_p[differing]), -np.abs(gap_right[differing])))
    shown = [
        DifferingItem(_describe(runs_a, at), *(float(values[at]) for values in (right_a, right_b, p_a, p_b)))
        for at in differing[order[:N_MOST_DIFFERENT]]
    ]
    return MostDifferent(name_a, name_b, int((gap_right > 0).sum()), int((gap_right < 0).sum()), shown)


def first_completions(predictions: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return `status`, `answer` and `completion` of each item's first sample in its first training run.

    Args:
        predictions: rows `item_id, status, answer, completion`, and `seed` and `sample` where there are several.
    """
    keys = [key for key in ("seed", "sample") if key in predictions]
    rows = predictions.sort_values(keys, kind="stable") if keys else predictions
    first = rows.drop_duplicates("item_id")
    return {
        str(item): {
            "status": str(status),
            "answer": None if pd.isna(answer) else str(answer),
            "completion": None if pd.isna(text) else str(text),
        }
        for item, status, answer, text in zip(
            *(first[column] for column in ("item_id", "status", "answer", "completion")), strict=True
        )
    }


def _describe(runs: PredictionArrays, at: int) -> Item:
    item_id, line, pert, gene = (str(column[at]) for column in (runs.item_id, runs.line, runs.pert, runs.gene))
    return Item(item_id, line, pert, gene, str(LABELS[runs.label[at]]))


def _share_right(runs: PredictionArrays) -> Floats:
    return np.asarray((runs.answer == runs.label).mean(axis=0))


def _true_probability(runs: PredictionArrays) -> Floats:
    """(N,) probability of the true label, mean over the runs that have one; NaN where none has."""
    of_label: Floats = runs.prob[:, np.arange(len(runs.label)), runs.label]
    n_known = (~np.isnan(of_label)).sum(axis=0)
    total = np.nan_to_num(of_label).sum(axis=0)
    return np.asarray(np.divide(total, n_known, out=np.full(len(total), np.nan), where=n_known > 0))
