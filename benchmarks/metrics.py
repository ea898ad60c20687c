"""Metrics of one system, each with the influence of every item on it, from which significance.py takes its errors.

Rules that hold for all of them:

- An answer that is malformed or incomplete is wrong: the confusion matrix has a fourth predicted column, "no answer".
- An item without a score counts 1/2 in every pair of an AUROC that it is in, and as the uniform forecast in Brier.
  A system without any score has no AUROC and no Brier.
- An unscorable item (nothing but errors) is left out and counted, never wrong.
- With several training runs a metric is the mean over runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.prediction_arrays import DOWN, NO_ANSWER, NONE, UP, Bools, Floats, Ints, PredictionArrays
from rewards import LABELS, InputError

# Metrics of each task, in the order of the report.
TASK_METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "three_class": ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "brier"),
    "de": ("accuracy", "de_auroc", "de_per_gene_auroc"),
    "dir": ("dir_auroc", "dir_per_gene_auroc"),
}
# The nine names that stand for one metric each; `accuracy` alone is the three-class one.
METRICS: Final = (*TASK_METRICS["three_class"], *TASK_METRICS["de"][1:], *TASK_METRICS["dir"])
# Smallest and largest value of a metric; 0 and 1 where it is not named.
RANGE: Final[Mapping[str, tuple[float, float]]] = {"mcc": (-1.0, 1.0), "brier": (0.0, 2.0)}


def task_of(metric: str) -> str:
    """Return the task of one of `METRICS`.

    Raises:
        InputError: there is no such metric.
    """
    if metric not in METRICS:
        raise InputError(f"metric: {metric!r} is unknown; use one of {', '.join(METRICS)}")
    return next(task for task, names in TASK_METRICS.items() if metric in names)


@dataclass(frozen=True)
class Estimate:
    """A metric of one system and the influence of each item on it.

    Attributes:
        values: (K,) the metric in each training run; empty where it has no value.
        rows: (n,) positions of the items it is computed on.
        psi: (n,) influence of each item on the mean over runs; sums to 0. To first order the metric moves by the
            sum of `psi` over items drawn anew.
        psi_gene: (n,) the same, for the sums over genes. Differs from `psi` for per-gene metrics only: all weight
            of gene g's AUROC, (A_g - mean A)/K, spread over its items.
        n_genes: genes averaged over; None for a metric that does not average over genes.
        n_genes_left_out: genes with one class only among the items; None likewise.
        reason: why there is no value; "" where there is one.
    """

    values: Floats
    rows: Ints
    psi: Floats
    psi_gene: Floats
    n_genes: int | None = None
    n_genes_left_out: int | None = None
    reason: str = ""

    @property
    def value(self) -> float:
        """The metric, mean over training runs; NaN where it has no value."""
        return float(self.values.mean()) if self.values.size else float("nan")


def estimate(runs: PredictionArrays, task: str, metric: str, use: Bools | None = None) -> Estimate:
    """Compute a metric and the influence of each item on it.

    Args:
        runs: one system's predictions.
        task: a key of `TASK_METRICS`; `dir` looks at items labelled up or down only.
        metric: one of the task's metrics.
        use: (N,) items to look at; None for all. Unscorable items are left out in any case.

    Returns:
        The estimate; without values, and with a reason, where the items or the system do not give one.
    """
    if metric not in TASK_METRICS.get(task, ()):
        raise InputError(f"metric: {task}/{metric} is unknown; use {dict(TASK_METRICS)}")
    wanted = runs.scorable if use is None else runs.scorable & use
    if task == "dir":
        wanted = wanted & (runs.label != NONE)
    rows = np.flatnonzero(wanted)
    if not rows.size:
        return _no_value(rows, "no item to score")
    if metric.endswith("auroc"):
        return _estimate_auroc(runs, task, rows, per_gene=metric.endswith("per_gene_auroc"))
    if metric == "brier":
        unscored = [seed for seed, prob in zip(runs.seeds, runs.prob, strict=True) if np.isnan(prob[rows]).all()]
        if unscored:
            return _no_value(rows, "no probabilities")
        per_run = [_brier(runs.label[rows], prob[rows]) for prob in runs.prob]
    elif task == "de":
        right = [((answer == NONE) == (runs.label == NONE)) & (answer != NO_ANSWER) for answer in runs.answer]
        per_run = [_mean(one[rows].astype(np.float64)) for one in right]
    else:
        per_run = [_confusion_metric(runs.label[rows], answer[rows], _CONFUSION[metric]) for answer in runs.answer]
    psi = np.mean([psi for _, psi in per_run], axis=0)
    return Estimate(np.array([value for value, _ in per_run]), rows, psi, psi)


def _no_value(rows: Ints, reason: str) -> Estimate:
    return Estimate(np.empty(0), rows, np.zeros(len(rows)), np.zeros(len(rows)), reason=reason)


def _mean(values: Floats) -> tuple[float, Floats]:
    mean = float(values.mean())
    return mean, (values - mean) / len(values)


def _brier(label: Ints, prob: Floats) -> tuple[float, Floats]:
    forecast = np.where(np.isnan(prob), 1 / len(LABELS), prob)
    outcome = np.eye(len(LABELS))[label]
    return _mean(((forecast - outcome) ** 2).sum(axis=1))


def _accuracy(confusion: npt.NDArray[Any]) -> Any:
    return np.trace(confusion) / confusion.sum()


def _balanced_accuracy(confusion: npt.NDArray[Any]) -> Any:
    return _ratio(np.diagonal(confusion), confusion.sum(axis=1)).mean()


def _macro_f1(confusion: npt.NDArray[Any]) -> Any:
    margins = confusion.sum(axis=1) + confusion.sum(axis=0)[: len(LABELS)]
    return _ratio(2 * np.diagonal(confusion), margins).mean()


def _mcc(confusion: npt.NDArray[Any]) -> Any:
    """Gorodkin's R_K (10.1016/j.compbiolchem.2004.09.006); 0 where the answer or the label is constant."""
    n, true, predicted = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    spread = (n**2 - (predicted**2).sum()) * (n**2 - (true**2).sum())
    if spread.real == 0:
        return spread * 0
    return (n * np.trace(confusion) - (true * predicted[: len(LABELS)]).sum()) / np.sqrt(spread)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """part / whole, 0 where whole is 0 (scikit-learn's zero_division=0): an absent class stays in the mean."""
    empty = whole.real == 0
    return np.where(empty, 0, part / np.where(empty, 1, whole))


_CONFUSION: Final[Mapping[str, Callable[[npt.NDArray[Any]], Any]]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "mcc": _mcc,
}


def _confusion_metric(label: Ints, answer: Ints, metric: Callable[[npt.NDArray[Any]], Any]) -> tuple[float, Floats]:
    """A function of the confusion matrix (rows true, columns answered) and its gradient at each item's cell.

    The gradient is taken by the complex step (Squire & Trapp 1998, 10.1137/S003614459631241X), exact to rounding.
    The metrics do not change when all counts are scaled, so influences in counts sum to 0.
    """
    shape = (len(LABELS), len(LABELS) + 1)
    counts = np.bincount(label * shape[1] + answer, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    gradient = np.empty(shape)
    step = 1e-30
    for cell in np.ndindex(shape):
        moved = counts.astype(np.complex128)
        moved[cell] += 1j * step
        gradient[cell] = metric(moved).imag / step
    gradient -= (gradient * counts).sum() / counts.sum()
    return float(metric(counts)), gradient[label, answer]


def _estimate_auroc(runs: PredictionArrays, task: str, rows: Ints, *, per_gene: bool) -> Estimate:
    label = runs.label[rows]
    positive = label != NONE if task == "de" else label == UP
    classes = "differentially expressed items and others" if task == "de" else "items up and down"
    if positive.all() or not positive.any():
        return _no_value(rows, f"needs {classes}")
    n_genes = n_left_out = None
    if per_gene:
        # A gene is read out anew in each line: its unit is (line, gene), while errors cluster on the symbol.
        unit, units = pd.factorize(
            runs.line.codes[rows].astype(np.int64) * len(runs.gene.categories) + runs.gene.codes[rows]
        )
        both = _both_classes(positive, unit, len(units))
        n_genes, n_left_out = int(both.sum()), int((~both).sum())
        if not n_genes:
            return _no_value(rows, f"no gene has {classes}")
        kept = both[unit]
        rows, positive, group = rows[kept], positive[kept], (np.cumsum(both) - 1)[unit[kept]]
    else:
        group = np.zeros(len(rows), dtype=np.intp)
    n_groups = n_genes or 1
    size = np.bincount(group)
    # Weight of an item: its class's share in its group, times the group's share in the mean.
    weight = 1 / (np.bincount(group * 2 + positive, minlength=2 * n_groups)[group * 2 + positive] * n_groups)
    values, psi, psi_gene = [], np.zeros(len(rows)), np.zeros(len(rows))
    for prob in runs.prob:
        score = _score(prob[rows], task)
        if np.isnan(score).all():
            return _no_value(rows, "no probabilities")
        placement, auroc = placements(positive, score, group, n_groups)
        values.append(float(auroc.mean()))
        psi += (placement - auroc[group]) * weight
        psi_gene += ((auroc - auroc.mean()) / (n_groups * size))[group]
    psi /= len(runs.seeds)
    psi_gene /= len(runs.seeds)
    return Estimate(np.array(values), rows, psi, psi_gene if per_gene else psi, n_genes, n_left_out)


def _score(prob: Floats, task: str) -> Floats:
    """`de`: 1 - p_none; `dir`: p_up / (p_up + p_down), NaN where both are 0."""
    if task == "de":
        return np.asarray(1 - prob[:, NONE])
    either = prob[:, UP] + prob[:, DOWN]
    return np.asarray(np.divide(prob[:, UP], either, out=np.full(len(prob), np.nan), where=either > 0))


def _both_classes(positive: Bools, group: Ints, n_groups: int) -> Bools:
    n_positive = np.bincount(group[positive], minlength=n_groups)
    return (n_positive > 0) & (n_positive < np.bincount(group, minlength=n_groups))


def placements(positive: Bools, score: Floats, group: Ints, n_groups: int) -> tuple[Floats, Floats]:
    """Compare every item with those of the other class in its group (DeLong et al. 1988, 10.2307/2531595).

    Args:
        positive: (n,) the class.
        score: (n,) higher for more likely positive; NaN for none, which is 1/2 in each comparison.
        group: (n,) codes 0..n_groups-1; each group has both classes.
        n_groups: number of groups.

    Returns:
        (n,) placement of each item: of a positive, the share of negatives below it, ties half; of a negative, the
        share of positives above it. And (n_groups,) AUROC of each group, the mean placement of its positives.
    """
    n = len(score)
    known = ~np.isnan(score)
    order = np.argsort(score[known])
    if not known.all():
        order = np.flatnonzero(known)[order]
    # A stable sort by group keeps the order of scores within it; numpy sorts 16-bit integers in linear time.
    by_score = group[order]
    order = order[np.argsort(by_score.astype(np.uint16) if n_groups <= 2**16 else by_score, kind="stable")]
    sorted_group, sorted_score, sorted_positive = group[order], score[order], positive[order]

    new_group = np.ones(len(order), dtype=np.bool_)
    new_group[1:] = sorted_group[1:] != sorted_group[:-1]
    new_tie = new_group.copy()
    new_tie[1:] |= sorted_score[1:] != sorted_score[:-1]
    tie_start = np.flatnonzero(new_tie)
    tie_of_row = np.cumsum(new_tie) - 1
    group_of_tie = sorted_group[tie_start]

    def below_and_level(among: Bools) -> tuple[Floats, Floats]:
        """For each tie: how many of `among` lie below it in its group, and how many in it."""
        total = np.concatenate([[0], np.cumsum(among)])
        before = total[tie_start]
        level = np.diff(np.append(before, total[-1]))
        at_group_start = np.zeros(n_groups, dtype=before.dtype)
        at_group_start[sorted_group[new_group]] = total[np.flatnonzero(new_group)]
        return before - at_group_start[group_of_tie], level

    n_of_group = np.bincount(group, minlength=n_groups)
    n_positive = np.bincount(group[positive], minlength=n_groups)
    n_negative = n_of_group - n_positive
    known_positive = np.bincount(sorted_group[sorted_positive], minlength=n_groups)
    known_negative = np.bincount(sorted_group, minlength=n_groups) - known_positive

    negatives_below, negatives_level = below_and_level(~sorted_positive)
    positives_below, positives_level = below_and_level(sorted_positive)
    positives_above = known_positive[group_of_tie] - positives_below - positives_level
    unknown_negative = (n_negative - known_negative)[group_of_tie]
    unknown_positive = (n_positive - known_positive)[group_of_tie]
    of_positive = (negatives_below + 0.5 * (negatives_level + unknown_negative)) / n_negative[group_of_tie]
    of_negative = (positives_above + 0.5 * (positives_level + unknown_positive)) / n_positive[group_of_tie]

    placement = np.full(n, 0.5)
    placement[order] = np.where(sorted_positive, of_positive[tie_of_row], of_negative[tie_of_row])
    auroc = np.bincount(group[positive], weights=placement[positive], minlength=n_groups) / n_positive
    return placement, auroc


def per_gene_auroc(label: npt.ArrayLike, score: npt.ArrayLike, gene: npt.ArrayLike | "pd.Series[Any]") -> float:
    """Mean AUROC over genes, PerturbQA's official metric (Wu et al. 2025, arXiv 2502.21290).

    Ties count 1/2. A gene whose items are all of one class has no AUROC and is left out. Each of the others weighs
    the same. Over several cell lines, pass line and gene joined as `gene`.

    Args:
        label: (n,) binary, 0/1 or bool.
        score: (n,) higher for more likely 1.
        gene: (n,) the gene read out, any hashable value.

    Returns:
        The mean, from 0 to 1; 0.5 is chance.

    Raises:
        InputError: lengths differ, a value is NaN or missing, a label is not binary, or no gene has both classes.
    """
    labels, scores = np.asarray(label), np.asarray(score)
    genes, names = pd.factorize(gene if isinstance(gene, pd.Series | pd.Index) else np.asarray(gene))
    if not (labels.ndim == scores.ndim == 1 and len(labels) == len(scores) == len(genes)):
        raise InputError(
            f"per_gene_auroc: label {labels.shape}, score {scores.shape}, gene ({len(genes)},) differ; pass one each"
        )
    if not np.issubdtype(scores.dtype, np.number) and scores.dtype != np.bool_:
        raise InputError(f"per_gene_auroc: score is {scores.dtype}, not numbers; convert it")
    scores = scores.astype(np.float64)
    unknown = np.flatnonzero(np.isnan(scores) | (genes < 0))
    if unknown.size:
        column = "gene" if genes[unknown[0]] < 0 else "score"
        raise InputError(f"per_gene_auroc: {column} of row {unknown[0]} is missing; drop or fill such rows")
    positive = labels == 1
    other = np.flatnonzero(~positive & (labels != 0))
    if other.size:
        raise InputError(f"per_gene_auroc: label of row {other[0]} is {labels[other[0]]!r}; use 0 and 1")
    both = _both_classes(positive, genes, len(names))
    if not both.any():
        raise InputError("per_gene_auroc: no gene has items of both classes; the metric needs one that has")
    kept = both[genes]
    if not kept.all():
        genes, positive, scores = (np.cumsum(both) - 1)[genes[kept]], positive[kept], scores[kept]
    return float(placements(positive, scores, genes.astype(np.intp), int(both.sum()))[1].mean())
