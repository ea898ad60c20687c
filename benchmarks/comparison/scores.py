"""Scores of any task as checked arrays: epochs averaged, one column per item, one row per training run.

A frame of scores has these columns:

- `item_id`: the item. Rows with the same item are epochs: their scores are averaged.
- `score`: a number; missing where the row could not be scored.
- `seed`: the training run, optional.
- `outcome`: one of `OUTCOMES`, optional. It is `complete` where the column is absent.
- `content`: what the item asks, optional. Two systems must agree on it.
- one column per cluster key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.statistics.arrays import Bools, Floats, Ints
from rewards import InputError

# `incomplete`: cut off by a limit; its score counts. `unscorable`: an error, or no score; it is left out.
OUTCOMES: Final = ("complete", "incomplete", "unscorable")


@dataclass(frozen=True)
class ScoreArrays:
    """A system's scores: N items, K training runs, epochs already averaged.

    Attributes:
        item_id: (N,) unique ids.
        seeds: the K training runs.
        score: (K, N) mean over an item's epochs that have a score; NaN where none has.
        clusters: (N,) categories by cluster key.
        content: (N,) what each item asks; None where the source does not say.
        epochs: the largest number of rows of one item in one run.
        outcomes: how many rows have each of `OUTCOMES`.
    """

    item_id: "pd.Index[Any]"
    seeds: tuple[Any, ...]
    score: Floats
    clusters: dict[str, pd.Categorical]
    content: npt.NDArray[Any] | None
    epochs: int
    outcomes: dict[str, int]

    @property
    def scorable(self) -> Bools:
        """(N,) False where at least one run has no score for the item."""
        return np.asarray(~np.isnan(self.score).any(axis=0))

    def take(self, at: Ints) -> "ScoreArrays":
        """Return the items at positions `at`, in that order; `outcomes` still count all rows."""
        return ScoreArrays(
            self.item_id[at],
            self.seeds,
            self.score[:, at],
            {key: values[at] for key, values in self.clusters.items()},
            None if self.content is None else self.content[at],
            self.epochs,
            self.outcomes,
        )


def score_arrays(scores: pd.DataFrame, clusters: Sequence[str] = (), name: str = "scores") -> ScoreArrays:
    """Check a frame of scores and average the epochs of each item.

    Args:
        scores: one row per item, epoch and training run, with the columns above.
        clusters: the columns that hold cluster keys.
        name: what to call the frame in errors.

    Returns:
        The scores as arrays; items in the order of their first row.

    Raises:
        InputError: one of these:
            - a column is missing, or there is no row;
            - an item, seed or cluster is missing, or an outcome is unknown;
            - a score is no number or infinite;
            - rows of one item differ in a cluster or in `content`;
            - a training run lacks an item.
    """
    for column in ("item_id", "score", *clusters):
        if column not in scores:
            raise InputError(f"{name}: no column {column!r}; it has {', '.join(map(repr, scores.columns))}")
    if scores.empty:
        raise InputError(f"{name}: no rows; score at least one item")
    item, ids = pd.factorize(scores["item_id"])
    refuse(item < 0, scores, name, "item_id is missing")
    seeds: tuple[Any, ...] = (0,)
    run = np.zeros(len(item), dtype=np.intp)
    if "seed" in scores:
        run, found = pd.factorize(scores["seed"], sort=True)
        refuse(run < 0, scores, name, "seed is missing")
        seeds = tuple(np.asarray(found).tolist())
    value, outcomes = _values(scores, name)

    n, n_cells = len(ids), len(seeds) * len(ids)
    cell = run * n + item
    rows = np.bincount(cell, minlength=n_cells)
    absent = np.flatnonzero(rows == 0)
    if absent.size:
        at_run, at_item = divmod(int(absent[0]), n)
        raise InputError(f"{name}: run {seeds[at_run]!r} lacks item {ids[at_item]!r}; every run needs every item")
    known = ~np.isnan(value)
    total = np.bincount(cell[known], weights=value[known], minlength=n_cells)
    with np.errstate(invalid="ignore"):
        mean = total / np.bincount(cell[known], minlength=n_cells)

    first = np.empty(n, dtype=np.intp)
    first[item[::-1]] = np.arange(len(item) - 1, -1, -1)
    described = {}
    for key in clusters:
        code, names = pd.factorize(scores[key])
        refuse(code < 0, scores, name, f"{key} is missing")
        refuse(code != code[first][item], scores, name, f"the item has another {key} in an earlier row")
        described[key] = pd.Categorical.from_codes(code[first], categories=pd.Index(np.asarray(names)))
    content = None
    if "content" in scores:
        content = scores["content"].to_numpy(dtype=object)
        code = pd.factorize(content)[0]
        refuse(code != code[first][item], scores, name, "the item asks something else in an earlier row")
        content = content[first]
    return ScoreArrays(
        pd.Index(np.asarray(ids)), seeds, mean.reshape(len(seeds), n), described, content, int(rows.max()), outcomes
    )


def _values(scores: pd.DataFrame, name: str) -> tuple[Floats, dict[str, int]]:
    """The score of each row, NaN where it is unscorable, and the number of rows by outcome."""
    try:
        value = scores["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise InputError(f"{name}: column score is {scores['score'].dtype}, not numbers; convert it") from None
    refuse(np.isinf(value), scores, name, "score is infinite")
    outcome = np.full(len(scores), "complete", dtype=object)
    if "outcome" in scores:
        outcome = scores["outcome"].to_numpy(dtype=object)
        unknown = ~np.isin(outcome.astype(str), OUTCOMES)
        refuse(unknown, scores, name, f"outcome is none of {', '.join(OUTCOMES)}")
        value = np.where(outcome == "unscorable", np.nan, value)
    outcome = np.where(np.isnan(value), "unscorable", outcome)
    return value, {one: int((outcome == one).sum()) for one in OUTCOMES}


def refuse(wrong: npt.ArrayLike, scores: pd.DataFrame, name: str, problem: str) -> None:
    """Raise an `InputError` that names the first wrong row and its item, if there is one."""
    found = np.flatnonzero(np.asarray(wrong))
    if found.size:
        row = int(found[0])
        raise InputError(f"{name}, row {row} (item {scores['item_id'].iloc[row]!r}): {problem}; fix the row")


def align_scores(
    a: ScoreArrays, b: ScoreArrays, name_a: str, name_b: str, *, drop: bool
) -> tuple[ScoreArrays, ScoreArrays, int]:
    """Bring two systems onto the same items, in a's order.

    Args:
        a, b: the systems.
        name_a, name_b: what errors call them.
        drop: whether items that only one of them has are left out; otherwise they are an error.

    Returns:
        Both systems, b with the cluster codes of a, and the number of items left out.

    Raises:
        InputError: they share no item; one lacks an item (without `drop`); or they describe an item differently.
    """
    at = b.item_id.get_indexer(a.item_id)
    shared = at >= 0
    if not shared.any():
        raise InputError(
            f"{name_a} and {name_b} share no item (e.g. {a.item_id[0]!r}, {b.item_id[0]!r}); compare scores of the "
            "same items"
        )
    n_missing = len(a.item_id) + len(b.item_id) - 2 * int(shared.sum())
    if n_missing and not drop:
        lacking, other, items = name_b, name_a, a.item_id[~shared]
        if not len(items):
            lacking, other, items = name_a, name_b, b.item_id[~b.item_id.isin(a.item_id)]
        raise InputError(
            f"{lacking} lacks {len(items)} of {other}'s items, e.g. {items[0]!r}; score the same items, or compare "
            'only those that both have (--pairwise; in Python missing="drop")'
        )
    a, b = a.take(np.flatnonzero(shared)), b.take(at[shared])
    pairs = {key: (np.asarray(values), np.asarray(b.clusters[key])) for key, values in a.clusters.items()}
    if a.content is not None and b.content is not None:
        pairs["content"] = (a.content, b.content)
    for key, (ours, theirs) in pairs.items():
        differing = np.flatnonzero(ours != theirs)
        if differing.size:
            item = a.item_id[differing[0]]
            if key == "content":
                problem = "asks something else"
                remedy = (
                    "use one version of the task; if both are meant to be one item, match items by name alone "
                    "(--id id; for a log of lm-eval --id doc_id)"
                )
            else:
                problem, remedy = f"has another {key}", "use one set of clusters"
            raise InputError(f"item {item!r} {problem} in {name_b} than in {name_a}; {remedy}")
    return a, ScoreArrays(b.item_id, b.seeds, b.score, a.clusters, b.content, b.epochs, b.outcomes), n_missing
