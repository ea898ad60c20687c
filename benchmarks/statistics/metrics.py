"""Metrics of one system, each with the influence of every item on it, from which significance.py takes its errors.

Rules that hold for all of them:

- An answer that is malformed or incomplete is wrong: the confusion matrix has a fourth predicted column, "no answer".
- An item without a score counts 1/2 in every pair of an AUROC that it is in, as the uniform forecast in Brier, and in
  AUPRC as ranked below every item with one, level with the others that have none: a positive among them then adds the
  value of chance, the share of positives. ECE looks at the items with a score only.
  A system without any score has none of these.
- What is 0/0 has no value, and says why: the recall of a label that no item has, the precision of an answer never
  given. In the means over labels (balanced accuracy, macro-F1) it is 0, so that an absent label stays in them.
- An unscorable item (nothing but errors) is left out and counted, never wrong.
- With several training runs a metric is the mean over runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.statistics.areas import average_precision, both_classes, placements
from benchmarks.statistics.arrays import DOWN, NO_ANSWER, NONE, UP, Bools, Floats, Ints, PredictionArrays
from benchmarks.statistics.reliability import expected_calibration_error, reliability_bins
from rewards import LABELS, InputError

# Metrics of each task, in the order of the report.
TASK_METRICS: Final[Mapping[str, tuple[str, ...]]] = {
    "three_class": (
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "mcc",
        "recall_up",
        "recall_down",
        "recall_none",
        "precision_up",
        "precision_down",
        "precision_none",
        "brier",
        "ece",
    ),
    "de": ("accuracy", "de_auroc", "de_auprc", "de_per_gene_auroc", "de_per_perturbation_auroc"),
    "dir": ("dir_auroc", "dir_auprc", "dir_per_gene_auroc", "dir_per_perturbation_auroc"),
}
# The names that stand for one metric each; `accuracy` alone is the three-class one.
METRICS: Final = (*TASK_METRICS["three_class"], *TASK_METRICS["de"][1:], *TASK_METRICS["dir"])
# Smallest and largest value of a metric; 0 and 1 where it is not named.
RANGE: Final[Mapping[str, tuple[float, float]]] = {"mcc": (-1.0, 1.0), "brier": (0.0, 2.0)}
MAX_ROC_POINTS: Final = 200
_SCORE_DIGITS: Final = 12


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
        unit: `gene` or `pert` for a mean of AUROCs within genes or perturbations; None for all other metrics.
        psi_unit: (n,) for such a mean, what takes the place of `psi` in the sums over its unit: all weight of unit
            u's AUROC, (A_u - mean A)/K, spread over its items.
        n_units: units averaged over, each line's apart; None for a metric that is no such mean.
        n_units_left_out: units with one class only among the items; None likewise.
        reason: why there is no value; "" where there is one.
        no_interval: why there is a value but no interval (`psi` says nothing then); "" where `psi` gives one.
    """

    values: Floats
    rows: Ints
    psi: Floats
    unit: Literal["gene", "pert"] | None = None
    psi_unit: Floats | None = None
    n_units: int | None = None
    n_units_left_out: int | None = None
    reason: str = ""
    no_interval: str = ""

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
    if task not in runs.tasks:
        return _no_value(np.empty(0, dtype=np.intp), f"the system answers {' and '.join(runs.tasks)} only")
    wanted = runs.scorable if use is None else runs.scorable & use
    if task == "dir":
        wanted = wanted & (runs.label != NONE)
    rows = np.flatnonzero(wanted)
    if not rows.size:
        return _no_value(rows, "no item to score")
    if metric.endswith("auroc"):
        return _estimate_auroc(runs, task, rows, _UNIT.get(metric.removeprefix(f"{task}_")))
    if metric.endswith("auprc"):
        return _estimate_auprc(runs, task, rows)
    if metric == "ece":
        return _estimate_ece(runs, rows)
    if metric.startswith("recall_"):
        named = _CLASS[metric.removeprefix("recall_")]
        rows = rows[runs.label[rows] == named]
        if not rows.size:
            return _no_value(rows, f"no item is labelled {LABELS[named]}")
        per_run = [_mean((answer[rows] == named).astype(np.float64)) for answer in runs.answer]
    elif metric.startswith("precision_"):
        named = _CLASS[metric.removeprefix("precision_")]
        given = (runs.answer[:, rows] == named).any(axis=1)
        if not given.all():
            in_run = f" in training run {runs.seeds[int(np.argmin(given))]}" if len(runs.seeds) > 1 else ""
            return _no_value(rows, f"the answer {LABELS[named]} is never given{in_run}")
        per_run = [_confusion_metric(runs.label[rows], answer[rows], _precision(named)) for answer in runs.answer]
    elif metric == "brier":
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
    return Estimate(np.array([value for value, _ in per_run]), rows, psi)


def _no_value(rows: Ints, reason: str) -> Estimate:
    return Estimate(np.empty(0), rows, np.zeros(len(rows)), reason=reason)


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


def _precision(named: int) -> Callable[[npt.NDArray[Any]], Any]:
    return lambda confusion: confusion[named, named] / confusion[:, named].sum()


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


_CLASS: Final[Mapping[str, int]] = {"up": UP, "down": DOWN, "none": NONE}
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


_UNIT: Final[Mapping[str, Literal["gene", "pert"]]] = {
    "per_gene_auroc": "gene",
    "per_perturbation_auroc": "pert",
}
_UNIT_NAMES: Final = {"gene": "gene", "pert": "perturbation"}


def _estimate_auroc(runs: PredictionArrays, task: str, rows: Ints, unit: Literal["gene", "pert"] | None) -> Estimate:
    """Pooled AUROC, or the mean AUROC within genes or perturbations (`unit`).

    The influence of an item on a mean of AUROCs is how far its placement lies from the *mean*, not from its own
    unit's AUROC: half of PerturbQA's genes have a single positive, whose placement is its gene's AUROC, and centred on
    that it would say nothing about the perturbation that it shares with other genes.
    """
    label = runs.label[rows]
    positive = label != NONE if task == "de" else label == UP
    classes = "differentially expressed items and others" if task == "de" else "items up and down"
    if positive.all() or not positive.any():
        return _no_value(rows, f"needs {classes}")
    n_units = n_left_out = None
    group = np.zeros(len(rows), dtype=np.intp)
    if unit is not None:
        # A gene is read out anew in each line: its unit is (line, gene), while errors cluster on the symbol.
        names = runs.gene if unit == "gene" else runs.pert
        code, units = pd.factorize(runs.line.codes[rows].astype(np.int64) * len(names.categories) + names.codes[rows])
        both = both_classes(positive, code, len(units))
        n_units, n_left_out = int(both.sum()), int((~both).sum())
        if not n_units:
            return _no_value(rows, f"no {_UNIT_NAMES[unit]} has {classes}")
        kept = both[code]
        rows, positive, group = rows[kept], positive[kept], (np.cumsum(both) - 1)[code[kept]]
    n_groups = n_units or 1
    size = np.bincount(group)
    # Weight of an item: its class's share in its group, times the group's share in the mean.
    weight = 1 / (np.bincount(group * 2 + positive, minlength=2 * n_groups)[group * 2 + positive] * n_groups)
    values, psi, psi_unit = [], np.zeros(len(rows)), np.zeros(len(rows))
    for prob in runs.prob:
        score = task_score(prob[rows], task)
        if np.isnan(score).all():
            return _no_value(rows, "no probabilities")
        placement, auroc = placements(positive, score, group, n_groups)
        values.append(float(auroc.mean()))
        psi += (placement - auroc.mean()) * weight / len(runs.seeds)
        psi_unit += ((auroc - auroc.mean()) / (n_groups * size))[group] / len(runs.seeds)
    if unit is None:
        return Estimate(np.array(values), rows, psi)
    return Estimate(np.array(values), rows, psi, unit, psi_unit, n_units, n_left_out)


def _estimate_auprc(runs: PredictionArrays, task: str, rows: Ints) -> Estimate:
    positive, classes = _positives(runs.label[rows], task)
    if positive.all() or not positive.any():
        return _no_value(rows, f"needs {classes}")
    values, psi = [], np.zeros(len(rows))
    for prob in runs.prob:
        score = task_score(prob[rows], task)
        if np.isnan(score).all():
            return _no_value(rows, "no probabilities")
        value, of_run = average_precision(positive, score)
        values.append(value)
        psi += of_run / len(runs.seeds)
    return Estimate(np.array(values), rows, psi)


def _positives(label: Ints, task: str) -> tuple[Bools, str]:
    if task == "de":
        return label != NONE, "differentially expressed items and others"
    return label == UP, "items up and down"


def _estimate_ece(runs: PredictionArrays, rows: Ints) -> Estimate:
    scored = ~np.isnan(runs.prob[:, rows, UP])
    if not scored.any(axis=1).all():
        return _no_value(rows, "no probabilities")
    values = [
        expected_calibration_error(reliability_bins(*_top_label(runs.label[rows[known]], prob[rows[known]])))
        for prob, known in zip(runs.prob, scored, strict=True)
    ]
    reason = "no interval: ECE is biased upwards in small samples"
    return Estimate(np.array(values), rows, np.zeros(len(rows)), no_interval=reason)


def _top_label(label: Ints, prob: Floats) -> tuple[Floats, Bools]:
    """Probability of the likeliest label (the first among equals), and whether it is the true one."""
    return prob.max(axis=1), prob.argmax(axis=1) == label


def reliability(runs: PredictionArrays, use: Bools | None = None) -> list[dict[str, float]]:
    """Reliability of the likeliest label's probability, forecasts of all training runs together.

    Args:
        runs: one system's predictions.
        use: (N,) items to look at; None for all. Items without a score are left out.

    Returns:
        The bins of `reliability_bins`; none where the system has no score. With one training run `ece` is their
        `expected_calibration_error`; with several it is the mean over runs.
    """
    if "three_class" not in runs.tasks:
        return []
    rows = np.flatnonzero(runs.scorable if use is None else runs.scorable & use)
    prob = runs.prob[:, rows].reshape(-1, len(LABELS))
    label = np.tile(runs.label[rows], len(runs.seeds))
    scored = ~np.isnan(prob[:, UP])
    return reliability_bins(*_top_label(label[scored], prob[scored])) if scored.any() else []


def roc_points(runs: PredictionArrays, task: str, use: Bools | None = None) -> list[tuple[float, float]]:
    """Points of the pooled ROC curve, whose area is the pooled AUROC.

    Of the items without a score one half lies above all others and one half below, which gives them the 1/2 in every
    pair. Training runs are averaged at equal sums of the two rates, which makes the area the mean of the runs' areas.

    Args:
        runs: one system's predictions.
        task: `de` or `dir`.
        use: (N,) items to look at; None for all.

    Returns:
        `(false positive rate, true positive rate)` from (0, 0) to (1, 1): every corner of the curve where there are at
        most `MAX_ROC_POINTS` of them, else that many points evenly along it. Empty where a class is absent or a run
        has no score.
    """
    if task not in runs.tasks:
        return []
    wanted = runs.scorable if use is None else runs.scorable & use
    if task == "dir":
        wanted = wanted & (runs.label != NONE)
    rows = np.flatnonzero(wanted)
    positive, _ = _positives(runs.label[rows], task)
    scores = [task_score(prob[rows], task) for prob in runs.prob]
    if positive.all() or not positive.any() or any(np.isnan(score).all() for score in scores):
        return []
    curves = [_roc_corners(positive, score) for score in scores]
    # Both rates grow, so their sum runs along the whole curve, up its steps too.
    along = [rates.sum(axis=0) for rates in curves]
    at = np.unique(np.concatenate(along))
    if len(at) > MAX_ROC_POINTS:
        at = np.linspace(0, 2, MAX_ROC_POINTS)
    runs_at = [[np.interp(at, where, rate) for rate in rates] for where, rates in zip(along, curves, strict=True)]
    return [(float(false), float(true)) for false, true in np.mean(runs_at, axis=0).T]


def _roc_corners(positive: Bools, score: Floats) -> Floats:
    """(2, corners) false and true positive rate."""
    known = ~np.isnan(score)
    order = np.flatnonzero(known)[np.argsort(-score[known])]
    last_of_tie = np.flatnonzero(np.append(score[order][1:] != score[order][:-1], True))
    rates = []
    for member in (~positive, positive):
        half_unknown = float((member & ~known).sum() / 2)
        above = half_unknown + np.cumsum(member[order])[last_of_tie]
        rates.append(np.concatenate([[0.0, half_unknown], above, [member.sum()]]) / member.sum())
    return np.array(rates)


def task_score(prob: Floats, task: str) -> Floats:
    """`de`: 1 - p_none; `dir`: p_up / (p_up + p_down), NaN where both are 0.

    Rounded to what arithmetic keeps: .1/(.1 + .2) and .3/(.3 + .6), votes perhaps, are a tie, which their last binary
    digits would break.
    """
    if task == "de":
        return np.asarray(np.round(1 - prob[:, NONE], _SCORE_DIGITS))
    either = prob[:, UP] + prob[:, DOWN]
    share = np.divide(prob[:, UP], either, out=np.full(len(prob), np.nan), where=either > 0)
    return np.asarray(np.round(share, _SCORE_DIGITS))
