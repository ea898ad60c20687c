"""Bring systems onto the same items, in one order and with one set of category codes, before they are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.statistics.arrays import Ints, PredictionArrays
from rewards import LABELS, InputError


def align(runs: PredictionArrays, to: PredictionArrays, name: str, name_to: str) -> PredictionArrays:
    """Return `runs` with its items in the order of `to`.

    Args:
        runs: the system to reorder.
        to: the system whose order and category codes the result takes.
        name: what errors call `runs`.
        name_to: what errors call `to`.

    Raises:
        InputError: the two hold different items, or an item differs in label, cell line, perturbation or gene.
    """
    at = runs.item_id.get_indexer(to.item_id)
    missing = np.flatnonzero(at < 0)
    if len(missing) == len(at):
        raise InputError(
            f"{name} and {name_to} share no item (e.g. {runs.item_id[0]!r}, {to.item_id[0]!r}); "
            "compare predictions of the same items"
        )
    if missing.size:
        raise InputError(
            f"{name} lacks {missing.size} of {name_to}'s items, e.g. {to.item_id[missing[0]]!r}; "
            "evaluate both on the same items"
        )
    if len(runs.item_id) > len(at):
        extra = runs.item_id[~runs.item_id.isin(to.item_id)]
        raise InputError(
            f"{name_to} lacks {len(extra)} of {name}'s items, e.g. {extra[0]!r}; evaluate both on the same items"
        )
    aligned = runs.take(at)
    pairs: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {"label": (aligned.label, to.label)}
    for column in ("line", "pert", "gene"):
        pairs[column] = (np.asarray(getattr(aligned, column)), np.asarray(getattr(to, column)))
    for column, (ours, theirs) in pairs.items():
        differing = np.flatnonzero(ours != theirs)
        if differing.size:
            item = to.item_id[differing[0]]
            raise InputError(f"item {item!r} has another {column} in {name} than in {name_to}; use one set of labels")
    # The values are equal here. One set of codes lets the influences of both systems be clustered together.
    return replace(aligned, item_id=to.item_id, line=to.line, pert=to.pert, gene=to.gene)


def align_all(
    runs: Mapping[str, PredictionArrays], missing: Literal["error", "drop"] = "error"
) -> tuple[PredictionArrays, dict[str, PredictionArrays]]:
    """Bring systems into one order of items and one set of category codes.

    Args:
        runs: one system or more, by name.
        missing: what to do where systems hold different items. `error` refuses them. `drop` keeps each system's own
            items; each pair is later compared on the items that both hold.

    Returns:
        Two values. First all items, those of the first system before the others; use its items only, not its answers.
        Then the systems by name, each with its items in that order.

    Raises:
        InputError: `missing` is unknown, the items differ under `error`, or systems describe one item differently.
    """
    if missing not in ("error", "drop"):
        raise InputError(f"missing: {missing!r}; use 'error' or 'drop'")
    first, items = next(iter(runs.items()))
    if missing == "error":
        return items, {name: one if name == first else align(one, items, name, first) for name, one in runs.items()}
    items = _union(list(runs.values()))
    own = {name: np.flatnonzero(items.item_id.isin(one.item_id)) for name, one in runs.items()}
    return items, {name: align(one, items.take(own[name]), name, "another system") for name, one in runs.items()}


def _union(runs: Sequence[PredictionArrays]) -> PredictionArrays:
    """Items that at least one system holds, in the order of their first occurrence, with no training run."""
    parts: list[PredictionArrays] = []
    item_id = runs[0].item_id[:0]
    for one in runs:
        parts.append(one.take(np.flatnonzero(~one.item_id.isin(item_id))))
        item_id = item_id.append(parts[-1].item_id)

    def joined(columns: Sequence[pd.Categorical]) -> pd.Categorical:
        codes, names = pd.factorize(np.concatenate([np.asarray(column) for column in columns]))
        return pd.Categorical.from_codes(codes, categories=pd.Index(np.asarray(names)))

    n = len(item_id)
    return PredictionArrays(
        item_id=item_id,
        line=joined([part.line for part in parts]),
        pert=joined([part.pert for part in parts]),
        gene=joined([part.gene for part in parts]),
        label=np.concatenate([part.label for part in parts]),
        seeds=(),
        answer=np.empty((0, n), dtype=np.intp),
        prob=np.empty((0, n, len(LABELS))),
        scorable=np.zeros(n, dtype=np.bool_),
    )


def common_items(a: PredictionArrays, b: PredictionArrays) -> tuple[PredictionArrays, PredictionArrays, int]:
    """Return two systems on the items that both hold, in a's order.

    The third value is the number of items that only one of them holds. A system that loses no item is returned as
    the same object, so that a `Memo` finds its estimates again.
    """
    if a.item_id.equals(b.item_id):
        return a, b, 0
    at = b.item_id.get_indexer(a.item_id)
    n_missing = len(a.item_id) + len(b.item_id) - 2 * int((at >= 0).sum())
    return _chosen(a, np.flatnonzero(at >= 0)), _chosen(b, at[at >= 0]), n_missing


def _chosen(runs: PredictionArrays, at: Ints) -> PredictionArrays:
    return runs if np.array_equal(at, np.arange(len(runs.item_id))) else runs.take(at)
