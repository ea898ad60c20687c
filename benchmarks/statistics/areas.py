"""Areas under curves, from arrays: AUROC (pooled or within groups) and average precision."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.statistics.arrays import Bools, Floats, Ints
from rewards import InputError


def both_classes(positive: Bools, group: Ints, n_groups: int) -> Bools:
    """(n_groups,) whether a group holds positives and negatives; `group` is (n,) codes 0..n_groups-1."""
    n_positive = np.bincount(group[positive], minlength=n_groups)
    return (n_positive > 0) & (n_positive < np.bincount(group, minlength=n_groups))


def placements(positive: Bools, score: Floats, group: Ints, n_groups: int) -> tuple[Floats, Floats]:
    """Compare every item with those of the other class in its group (DeLong et al. 1988, 10.2307/2531595).

    The placement of a positive is the share of its group's negatives that score lower. The placement of a negative is
    the share of its group's positives that score higher. Ties count 1/2.

    Args:
        positive: (n,) the class.
        score: (n,) higher for more likely positive. NaN means no score and counts 1/2 in each comparison.
        group: (n,) codes 0..n_groups-1; each group has both classes.
        n_groups: number of groups.

    Returns:
        (n,) placement of each item, and (n_groups,) AUROC of each group: the mean placement of its positives.
    """
    order = _by_group_and_score(score, group, n_groups)
    sorted_group, sorted_score, sorted_positive = group[order], score[order], positive[order]
    new_group = np.ones(len(order), dtype=np.bool_)
    new_group[1:] = sorted_group[1:] != sorted_group[:-1]
    new_tie = new_group.copy()
    new_tie[1:] |= sorted_score[1:] != sorted_score[:-1]
    tie_start, tie_of_row = np.flatnonzero(new_tie), np.cumsum(new_tie) - 1
    group_of_tie = sorted_group[tie_start]

    def below_and_level(among: Bools) -> tuple[Floats, Floats]:
        """For each tie: the number of `among` with a lower score in its group, and the number within the tie."""
        total = np.concatenate([[0], np.cumsum(among)])
        before = total[tie_start]
        level = np.diff(np.append(before, total[-1]))
        at_group_start = np.zeros(n_groups, dtype=before.dtype)
        at_group_start[sorted_group[new_group]] = total[np.flatnonzero(new_group)]
        return before - at_group_start[group_of_tie], level

    n_positive = np.bincount(group[positive], minlength=n_groups)
    n_negative = np.bincount(group, minlength=n_groups) - n_positive
    known_positive = np.bincount(sorted_group[sorted_positive], minlength=n_groups)
    known_negative = np.bincount(sorted_group, minlength=n_groups) - known_positive
    negatives_below, negatives_level = below_and_level(~sorted_positive)
    positives_below, positives_level = below_and_level(sorted_positive)
    positives_above = known_positive[group_of_tie] - positives_below - positives_level
    unknown_negative = (n_negative - known_negative)[group_of_tie]
    unknown_positive = (n_positive - known_positive)[group_of_tie]
    of_positive = (negatives_below + 0.5 * (negatives_level + unknown_negative)) / n_negative[group_of_tie]
    of_negative = (positives_above + 0.5 * (positives_level + unknown_positive)) / n_positive[group_of_tie]

    placement = np.full(len(score), 0.5)
    placement[order] = np.where(sorted_positive, of_positive[tie_of_row], of_negative[tie_of_row])
    auroc = np.bincount(group[positive], weights=placement[positive], minlength=n_groups) / n_positive
    return placement, auroc


def _by_group_and_score(score: Floats, group: Ints, n_groups: int) -> Ints:
    """Positions of the items that have a score, sorted by group, then by score."""
    known = ~np.isnan(score)
    order = np.argsort(score[known])
    if not known.all():
        order = np.flatnonzero(known)[order]
    # A stable sort by group keeps the order of scores within it; numpy sorts 16-bit integers in linear time.
    by_score = group[order]
    by_group = np.argsort(by_score.astype(np.uint16) if n_groups <= 2**16 else by_score, kind="stable")
    return np.asarray(order[by_group])


def per_gene_auroc(label: npt.ArrayLike, score: npt.ArrayLike, gene: npt.ArrayLike | "pd.Series[Any]") -> float:
    """Mean AUROC over genes, PerturbQA's official metric (Wu et al. 2025, arXiv 2502.21290).

    Ties count 1/2. A gene whose items are all of one class has no AUROC and is left out. All other genes have the
    same weight. For several cell lines, pass line and gene joined as `gene`.

    Args:
        label: (n,) binary, 0/1 or bool.
        score: (n,) higher for more likely 1.
        gene: (n,) the gene whose expression is measured, any hashable value.

    Returns:
        The mean, from 0 to 1; 0.5 is chance.

    Raises:
        InputError: lengths differ, a value is NaN or missing, a label is not binary, or no gene has both classes.
    """
    labels, scores = np.asarray(label), np.asarray(score)
    for column, values in (("label", labels), ("score", scores)):
        if (missing := np.flatnonzero(pd.isna(values))).size:
            raise InputError(f"per_gene_auroc: {column} of row {missing[0]} is missing; drop or fill such rows")
    if scores.dtype == object:  # pandas gives this type to a column that can hold missing values
        scores = pd.Series(scores).infer_objects().to_numpy()
    genes, names = pd.factorize(gene if isinstance(gene, pd.Series | pd.Index) else np.asarray(gene))
    if not (labels.ndim == scores.ndim == 1 and len(labels) == len(scores) == len(genes)):
        raise InputError(
            f"per_gene_auroc: label {labels.shape}, score {scores.shape}, gene ({len(genes)},) differ; pass one each"
        )
    if not np.issubdtype(scores.dtype, np.number) and scores.dtype != np.bool_:
        raise InputError(f"per_gene_auroc: score is {scores.dtype}, not numbers; convert it to numbers")
    scores = scores.astype(np.float64)
    unknown = np.flatnonzero(genes < 0)
    if unknown.size:
        raise InputError(f"per_gene_auroc: gene of row {unknown[0]} is missing; drop or fill such rows")
    positive = labels == 1
    other = np.flatnonzero(~positive & (labels != 0))
    if other.size:
        raise InputError(f"per_gene_auroc: label of row {other[0]} is {labels[other[0]]!r}; use 0 and 1")
    both = both_classes(positive, genes, len(names))
    if not both.any():
        raise InputError("per_gene_auroc: no gene has items of both classes; pass more items, or check the labels")
    kept = both[genes]
    if not kept.all():
        genes, positive, scores = (np.cumsum(both) - 1)[genes[kept]], positive[kept], scores[kept]
    return float(placements(positive, scores, genes.astype(np.intp), int(both.sum()))[1].mean())


def average_precision(positive: Bools, score: Floats) -> tuple[float, Floats]:
    """Average precision: the area under the precision-recall curve in steps, as scikit-learn defines it.

    AP = (1/P) sum over positives i of TP(i)/N(i). N(i) is the number of items that score at least as high as i, and
    TP(i) the number of positives among them.

    Give every item a weight w (1 here). AP is then a ratio of sums, and the influence of item k is its derivative by
    k's weight: (1/P) [sum over i in S_k of (y_k/N(i) - TP(i)/N(i)^2) + y_k (TP(k)/N(k) - AP)]. S_k holds the positives
    that score no higher than k.

    Args:
        positive: (n,) the class; both classes occur.
        score: (n,) higher for more likely positive. NaN means no score: such items are tied, below all others.

    Returns:
        AP, from the share of positives (chance) to 1, and the (n,) influences; they sum to 0.
    """
    ranked = np.where(np.isnan(score), -np.inf, score)
    order = np.argsort(-ranked)
    descending, sorted_positive = ranked[order], positive[order]
    last_of_tie = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    n_above = last_of_tie + 1.0
    positives_above = np.cumsum(sorted_positive)[last_of_tie].astype(np.float64)
    in_tie = np.diff(positives_above, prepend=0.0)
    precision, n_positive = positives_above / n_above, positives_above[-1]
    value = float((in_tie * precision).sum() / n_positive)
    # Sums over the item's own tie and all lower ones: the effect of one more positive, and of one more item.
    gain = np.cumsum((in_tie / n_above)[::-1])[::-1]
    loss = np.cumsum((in_tie * precision / n_above)[::-1])[::-1]
    tie = np.repeat(np.arange(len(n_above)), np.diff(last_of_tie, prepend=-1))
    psi = np.empty(len(order))
    psi[order] = (np.where(sorted_positive, (gain + precision - value)[tie], 0.0) - loss[tie]) / n_positive
    return value, psi
