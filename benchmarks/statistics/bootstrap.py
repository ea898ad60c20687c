"""Pigeonhole bootstrap: perturbations and genes resampled independently, an item weighing the product of both counts.

Owen 2007 (10.1214/07-AOAS122): where items are correlated within perturbations and within genes, this is conservative
(its variance counts an item's own noise up to three times); resampling items alone is far too narrow.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from rewards import InputError

Float32s = np.ndarray[Any, np.dtype[np.float32]]
Ints = np.ndarray[Any, np.dtype[np.intp]]

# Replicates handled at once: enough for numpy to run along them, few enough for the processor's cache and the memory.
CHUNK: Final = 32
THREADS: Final = 2


def pigeonhole_weights(
    n_perturbations: int, n_genes: int, n_replicates: int, seed: int
) -> Iterator[tuple[Float32s, Float32s]]:
    """Draw how often each perturbation and each gene is in each replicate; an item weighs the product of the two.

    Args:
        n_perturbations: P, at least 1.
        n_genes: G, at least 1.
        n_replicates: how many in all, at least 1.
        seed: of the draw. The same seed gives the same weights, so replicates of two systems are paired.

    Yields:
        (P, r) and (G, r) whole numbers as float32, r at most `CHUNK` replicates at a time. Each column sums to P or G.
    """
    if min(n_perturbations, n_genes, n_replicates) < 1:
        raise InputError(
            f"pigeonhole_weights: {n_perturbations} perturbations, {n_genes} genes, {n_replicates} replicates; "
            "use at least 1 of each"
        )
    rng = np.random.default_rng(seed)
    for first in range(0, n_replicates, CHUNK):
        r = min(CHUNK, n_replicates - first)
        yield _counts(rng, n_perturbations, r), _counts(rng, n_genes, r)


def _counts(rng: np.random.Generator, n: int, r: int) -> Float32s:
    cell = rng.integers(0, n, size=(n, r)) * r + np.arange(r)
    return np.bincount(cell.ravel(), minlength=n * r).reshape(n, r).astype(np.float32)


def pigeonhole_means(
    values: npt.ArrayLike, pert: npt.ArrayLike, gene: npt.ArrayLike, n_replicates: int = 10_000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Weighted mean of the items' values in each replicate, such as of differences in correctness or of influences.

    Args:
        values: (n,) one per item.
        pert: (n,) perturbation of each item, any hashable value.
        gene: (n,) gene of each item.
        n_replicates: R, at least 1.
        seed: of the draw.

    Returns:
        (R,) sum of weight times value over sum of weights; NaN in a replicate that drew no item.

    Raises:
        InputError: lengths differ, there is no item, or a perturbation or gene is missing.
    """
    from scipy import sparse

    value = np.asarray(values, dtype=np.float64)
    pert_code, gene_code, shape = _codes("pigeonhole_means", len(value), pert, gene)
    sums = sparse.csr_array((value, (pert_code, gene_code)), shape=shape)
    items = sparse.csr_array((np.ones(len(value)), (pert_code, gene_code)), shape=shape)
    means = []
    for pert_PR, gene_GR in pigeonhole_weights(*shape, n_replicates, seed):
        pert_weights_PR, gene_weights_GR = pert_PR.astype(np.float64), gene_GR.astype(np.float64)
        total_R, n_R = (
            np.asarray(pert_weights_PR * np.asarray(per_pair @ gene_weights_GR)).sum(axis=0)
            for per_pair in (sums, items)
        )
        means.append(np.divide(total_R, n_R, out=np.full(len(n_R), np.nan), where=n_R > 0))
    return np.concatenate(means)


def per_gene_auroc_bootstrap(
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    gene: npt.ArrayLike,
    pert: npt.ArrayLike,
    n_replicates: int = 10_000,
    seed: int = 0,
    *,
    line: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """Mean per-gene AUROC in replicates of the pigeonhole bootstrap.

    In a replicate each gene's AUROC is taken over its items weighted by how often their perturbation was drawn (all
    items of a gene share the gene's own count, which cancels), and the mean over genes is weighted by how often they
    were drawn. A gene left with one class, or not drawn, is left out, as the metric itself leaves it out.

    Each gene is sorted once. In a replicate a running sum of the negatives' weights gives every positive the weight
    below it. Weights are whole numbers, which float32 holds exactly up to 2^24; larger products lose their last digits.

    Args:
        label: (n,) binary, 0/1 or bool.
        score: (n,) higher for more likely 1; no NaN. Ties count 1/2.
        gene: (n,) the gene read out, drawn as one over all lines.
        pert: (n,) the perturbation, likewise.
        n_replicates: R, at least 1.
        seed: of the draw. The same seed on the same items gives the same resamples: the difference of two systems'
            replicates is a paired replicate of their difference.
        line: (n,) cell line; a gene has an AUROC of its own in each. None for one line.

    Returns:
        (R,) replicates; NaN in one in which no gene has both classes.

    Raises:
        InputError: lengths differ, a value is missing, a label is not binary, or no gene has both classes.
    """
    positive, scores = _binary(label), np.asarray(score, dtype=np.float64)
    if scores.shape != positive.shape:
        raise InputError(f"per_gene_auroc_bootstrap: {len(positive)} labels, {scores.shape} scores; pass one each")
    if np.isnan(scores).any():
        raise InputError(f"per_gene_auroc_bootstrap: score of row {int(np.argmax(np.isnan(scores)))} is missing")
    pert_code, gene_code, shape = _codes("per_gene_auroc_bootstrap", len(scores), pert, gene)
    unit = gene_code
    if line is not None:
        line_code, lines = pd.factorize(np.asarray(line))
        if len(line_code) != len(scores) or (line_code < 0).any():
            raise InputError("per_gene_auroc_bootstrap: line is missing for some row; pass one each")
        unit = pd.factorize(gene_code * len(lines) + line_code)[0]
    plan = _Plan(positive, scores, unit, pert_code, gene_code)
    weights = pigeonhole_weights(*shape, n_replicates, seed)
    replicates: list[npt.NDArray[np.float64]] = []
    # The draws come in order from one generator, a few chunks ahead of the threads that use them.
    with ThreadPoolExecutor(THREADS) as threads:
        while chunks := list(islice(weights, 2 * THREADS)):
            replicates += threads.map(lambda chunk: plan.replicates(*chunk), chunks)
    return np.concatenate(replicates)


class _Plan:
    """Positives and negatives of the units with both classes, sorted by unit and score; made once for all replicates.

    Axes: M negatives, N positives, U units (a gene in a line), P perturbations, G genes, R replicates.
    """

    def __init__(
        self, positive: npt.NDArray[np.bool_], score: npt.NDArray[np.float64], unit: Ints, pert: Ints, gene: Ints
    ) -> None:
        n_units = int(unit.max()) + 1
        n_positive = np.bincount(unit[positive], minlength=n_units)
        both = (n_positive > 0) & (n_positive < np.bincount(unit, minlength=n_units))
        if not both.any():
            raise InputError("per_gene_auroc_bootstrap: no gene has items of both classes; the metric needs one")
        rows = np.flatnonzero(both[unit])
        at_unit = (np.cumsum(both) - 1)[unit[rows]]
        order = np.lexsort((score[rows], at_unit))
        rows, at_unit = rows[order], at_unit[order]
        is_positive = positive[rows]
        # Rank of each distinct (unit, score): ties share one.
        starts = np.ones(len(rows), dtype=np.bool_)
        starts[1:] = (at_unit[1:] != at_unit[:-1]) | (score[rows][1:] != score[rows][:-1])
        rank = np.cumsum(starts)
        negative_rank, positive_rank = rank[~is_positive], rank[is_positive]
        n_negative = np.bincount(at_unit[~is_positive])
        first_negative = np.concatenate([[0], np.cumsum(n_negative)])

        self._pert_M = pert[rows[~is_positive]]
        self._pert_N = pert[rows[is_positive]]
        # Positions in the running sum over negatives, which starts with a 0.
        self._below_N = np.searchsorted(negative_rank, positive_rank, side="left")
        self._not_above_N = np.searchsorted(negative_rank, positive_rank, side="right")
        self._unit_N = at_unit[is_positive]
        self._start_U, self._end_U = first_negative[:-1], first_negative[1:]
        self._first_positive_U = np.searchsorted(self._unit_N, np.arange(int(both.sum())))
        gene_U = np.empty(int(both.sum()), dtype=np.intp)
        gene_U[at_unit] = gene[rows]
        self._gene_U = gene_U

    def replicates(self, pert_PR: Float32s, gene_GR: Float32s) -> npt.NDArray[np.float64]:
        """(R,) mean over units, weighted by the gene's count."""
        # Differences of a running sum need its exact value: float32 holds it up to 2^24.
        exact = np.float32 if len(self._pert_M) < 2**22 else np.float64
        running = np.empty((len(self._pert_M) + 1, pert_PR.shape[1]), dtype=exact)
        running[0] = 0
        np.cumsum(pert_PR[self._pert_M], axis=0, out=running[1:])
        at_start_UR = running[self._start_U]
        negative_UR = running[self._end_U] - at_start_UR
        # Weight of the negatives below each positive and half of those level with it.
        below_NR = running[self._below_N]
        below_NR += running[self._not_above_N]
        below_NR *= 0.5
        below_NR -= at_start_UR[self._unit_N]
        weight_NR = pert_PR[self._pert_N]
        positive_UR = np.add.reduceat(weight_NR, self._first_positive_U, axis=0)
        below_NR *= weight_NR
        won_UR = np.add.reduceat(below_NR, self._first_positive_U, axis=0)
        pairs_UR = negative_UR * positive_UR
        gene_UR = gene_GR[self._gene_U]
        gene_UR[pairs_UR == 0] = 0
        auroc_UR = won_UR / np.maximum(pairs_UR, 1)
        total_R = np.einsum("ur,ur->r", gene_UR, auroc_UR, dtype=np.float64)
        n_R = gene_UR.sum(axis=0, dtype=np.float64)
        return np.asarray(np.divide(total_R, n_R, out=np.full(len(n_R), np.nan), where=n_R > 0))


def _binary(label: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    labels = np.asarray(label)
    positive = labels == 1
    other = np.flatnonzero(~positive & (labels != 0))
    if labels.ndim != 1 or other.size:
        found = f"label of row {other[0]} is {labels[other[0]]!r}" if labels.ndim == 1 else "labels are not one column"
        raise InputError(f"per_gene_auroc_bootstrap: {found}; use 0 and 1")
    return np.asarray(positive)


def _codes(name: str, n: int, pert: npt.ArrayLike, gene: npt.ArrayLike) -> tuple[Ints, Ints, tuple[int, int]]:
    pert_code, perts = pd.factorize(np.asarray(pert))
    gene_code, genes = pd.factorize(np.asarray(gene))
    if not n == len(pert_code) == len(gene_code):
        raise InputError(f"{name}: {n} items, {len(pert_code)} perturbations, {len(gene_code)} genes; pass one each")
    if not n:
        raise InputError(f"{name}: no items; pass at least one")
    for what, code in (("pert", pert_code), ("gene", gene_code)):
        if (code < 0).any():
            raise InputError(f"{name}: {what} of row {int(np.argmin(code))} is missing; drop the row")
    return pert_code.astype(np.intp), gene_code.astype(np.intp), (len(perts), len(genes))
