"""How metrics are computed: the value in each training run, and the influence of every item on it.

The influence of an item is the first-order change of the metric when the item gets more weight. Each metric of the
table in metrics.py has one of these estimators. Rules that hold for all of them:

- A malformed or incomplete answer is wrong. The confusion matrix has a fourth predicted column, "no answer".
- An item without a score counts 1/2 in every pair of an AUROC. In Brier it counts as the uniform forecast. In AUPRC
  all such items are tied below the others; a positive among them adds the share of positives, which is chance. ECE
  uses only items with a score. A system without any score has none of these metrics.
- A metric that is 0/0 has no value, and the estimate says why: the recall of a label that no item has, or the
  precision of an answer never given. In means over labels (balanced accuracy, macro-F1) 0/0 counts as 0, so that an
  absent label stays in the mean.
- An unscorable item (all its samples are errors) is left out and counted. It is never wrong.
- With several training runs a metric is the mean over runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.statistics.areas import average_precision, both_classes, placements
from benchmarks.statistics.arrays import DOWN, NO_ANSWER, NONE, UP, Bools, Floats, Ints, PredictionArrays
from benchmarks.statistics.reliability import expected_calibration_error, reliability_bins
from rewards import LABELS

_SCORE_DIGITS: Final = 12
_UNIT_NAMES: Final = {"gene": "gene", "pert": "perturbation"}


@dataclass(frozen=True)
class Estimate:
    """A metric of one system and the influence of each item on it.

    Attributes:
        values: (K,) the metric in each training run; empty where it has no value.
        rows: (n,) positions of the items it is computed on.
        psi: (n,) influence of each item on the mean over runs; sums to 0. If items are drawn anew, the metric changes
            to first order by the sum of their `psi`.
        unit: `gene` or `pert` for a mean of AUROCs within genes or perturbations; None for all other metrics.
        psi_unit: (n,) for such a mean, used instead of `psi` in sums over units. Unit u contributes (A_u - mean A)/G
            (A_u its AUROC, G the number of units), spread evenly over its items.
        n_units: number of units averaged over, counted in each cell line; None where `unit` is None.
        n_units_left_out: number of units left out because their items are of one class; None where `unit` is None.
        reason: why there is no value; "" where there is one.
        no_interval: why there is a value but no interval (then `psi` is 0); "" where `psi` gives an interval.
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


# Computes a metric of a system on the items at these positions: at least one, all scorable and of the metric's task.
Estimator: TypeAlias = Callable[[PredictionArrays, Ints], Estimate]
OfConfusion: TypeAlias = Callable[[npt.NDArray[Any]], Any]


def scorable_rows(runs: PredictionArrays, task: str, use: Bools | None = None) -> Ints:
    """Positions of a task's items that have a scorable answer; `dir` has only items labelled up or down.

    `use` is (N,) a mask of the items to consider; None for all.
    """
    wanted = runs.scorable if use is None else runs.scorable & use
    return np.flatnonzero(wanted & (runs.label != NONE) if task == "dir" else wanted)


def no_value(rows: Ints, reason: str) -> Estimate:
    """The estimate of a metric that has no value on these items."""
    return Estimate(np.empty(0), rows, np.zeros(len(rows)), reason=reason)


def _over_runs(rows: Ints, per_run: Sequence[tuple[float, Floats]]) -> Estimate:
    """The estimate from the value and the influences of each training run."""
    return Estimate(np.array([value for value, _ in per_run]), rows, np.mean([psi for _, psi in per_run], axis=0))


def _mean(values: Floats) -> tuple[float, Floats]:
    mean = float(values.mean())
    return mean, (values - mean) / len(values)


def changed_or_not(runs: PredictionArrays, rows: Ints) -> Estimate:
    """Share of items where "differentially expressed or not" is answered right."""
    right = [((answer == NONE) == (runs.label == NONE)) & (answer != NO_ANSWER) for answer in runs.answer]
    return _over_runs(rows, [_mean(one[rows].astype(np.float64)) for one in right])


def recall(named: int) -> Estimator:
    """Of the items with a label (a position in `LABELS`), the share that is answered with it."""

    def estimated(runs: PredictionArrays, rows: Ints) -> Estimate:
        labelled = rows[runs.label[rows] == named]
        if not labelled.size:
            return no_value(labelled, f"no item is labelled {LABELS[named]}")
        return _over_runs(labelled, [_mean((answer[labelled] == named).astype(np.float64)) for answer in runs.answer])

    return estimated


def precision(named: int) -> Estimator:
    """Of the items answered with a label (a position in `LABELS`), the share that has it."""

    def estimated(runs: PredictionArrays, rows: Ints) -> Estimate:
        given = (runs.answer[:, rows] == named).any(axis=1)
        if not given.all():
            in_run = f" in training run {runs.seeds[int(np.argmin(given))]}" if len(runs.seeds) > 1 else ""
            return no_value(rows, f"the answer {LABELS[named]} is never given{in_run}")
        return of_confusion(lambda confusion: confusion[named, named] / confusion[:, named].sum())(runs, rows)

    return estimated


def brier(runs: PredictionArrays, rows: Ints) -> Estimate:
    """Squared error of the three probabilities, summed; `_filled` supplies unknown probabilities."""
    if any(np.isnan(prob[rows]).all() for prob in runs.prob):
        return no_value(rows, "no probabilities")
    outcome = np.eye(len(LABELS))[runs.label[rows]]
    forecasts = [_filled(prob[rows]) for prob in runs.prob]
    return _over_runs(rows, [_mean(((forecast - outcome) ** 2).sum(axis=1)) for forecast in forecasts])


def _filled(prob: Floats) -> Floats:
    """(N, 3) probabilities; unknown ones share equally what the known ones leave of 1."""
    unknown = np.isnan(prob)
    left = (1 - np.nansum(prob, axis=1)) / np.maximum(unknown.sum(axis=1), 1)
    return np.where(unknown, left[:, None], prob)


def calibration_error(runs: PredictionArrays, rows: Ints) -> Estimate:
    """Expected calibration error of the likeliest label. It has no influences and so no interval."""
    scored = ~np.isnan(runs.prob[:, rows, UP])
    if not scored.any(axis=1).all():
        return no_value(rows, "no probabilities")
    values = [
        expected_calibration_error(reliability_bins(*top_label(runs.label[rows[known]], prob[rows[known]])))
        for prob, known in zip(runs.prob, scored, strict=True)
    ]
    return Estimate(np.array(values), rows, np.zeros(len(rows)))


def top_label(label: Ints, prob: Floats) -> tuple[Floats, Bools]:
    """Probability of the likeliest label (the first of equals), and whether it is the true label."""
    return prob.max(axis=1), prob.argmax(axis=1) == label


def accuracy(confusion: npt.NDArray[Any]) -> Any:
    """Share of right answers, from a confusion matrix (3, 4): rows true, columns answered, "no answer" last."""
    return np.trace(confusion) / confusion.sum()


def balanced_accuracy(confusion: npt.NDArray[Any]) -> Any:
    """Mean recall over the labels, from a confusion matrix as in `accuracy`."""
    return _ratio(np.diagonal(confusion), confusion.sum(axis=1)).mean()


def balanced_direction(runs: PredictionArrays, rows: Ints) -> Estimate:
    """Mean of the recalls of up and of down; no value where no item has one of them."""
    positive, classes = positives(runs.label[rows], "dir")
    if positive.all() or not positive.any():
        return no_value(rows, f"needs {classes}")
    return of_confusion(_mean_of_two_recalls)(runs, rows)


def _mean_of_two_recalls(confusion: npt.NDArray[Any]) -> Any:
    return (confusion[UP, UP] / confusion[UP].sum() + confusion[DOWN, DOWN] / confusion[DOWN].sum()) / 2


def macro_f1(confusion: npt.NDArray[Any]) -> Any:
    """Mean F1 over the labels, from a confusion matrix as in `accuracy`."""
    margins = confusion.sum(axis=1) + confusion.sum(axis=0)[: len(LABELS)]
    return _ratio(2 * np.diagonal(confusion), margins).mean()


def mcc(confusion: npt.NDArray[Any]) -> Any:
    """Gorodkin's R_K (10.1016/j.compbiolchem.2004.09.006); 0 where all answers or all labels are the same."""
    n, true, predicted = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    spread = (n**2 - (predicted**2).sum()) * (n**2 - (true**2).sum())
    if spread.real == 0:
        return spread * 0
    return (n * np.trace(confusion) - (true * predicted[: len(LABELS)]).sum()) / np.sqrt(spread)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """part / whole, 0 where whole is 0 (scikit-learn's zero_division=0), so that an absent class stays in the mean."""
    empty = whole.real == 0
    return np.where(empty, 0, part / np.where(empty, 1, whole))


def of_confusion(metric: OfConfusion) -> Estimator:
    """Make an estimator from a function of the confusion matrix (rows true, columns answered, "no answer" last)."""

    def estimated(runs: PredictionArrays, rows: Ints) -> Estimate:
        return _over_runs(rows, [_confusion_metric(runs.label[rows], answer[rows], metric) for answer in runs.answer])

    return estimated


def _confusion_metric(label: Ints, answer: Ints, metric: OfConfusion) -> tuple[float, Floats]:
    """A function of the confusion matrix (rows true, columns answered), and its gradient at each item's cell.

    The gradient is taken by the complex step (Squire & Trapp 1998, 10.1137/S003614459631241X), exact to rounding.
    The metrics do not change when all counts are scaled, so the influences sum to 0.
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


def positives(label: Ints, task: str) -> tuple[Bools, str]:
    """(n,) whether each label is positive in a task, and the two classes in words."""
    if task == "de":
        return label != NONE, "differentially expressed items and others"
    return label == UP, "items up and down"


def auroc(task: str, unit: Literal["gene", "pert"] | None = None) -> Estimator:
    """Make an estimator of the pooled AUROC, or of the mean AUROC within genes or perturbations (`unit`).

    In a mean of AUROCs, an item's influence is the distance of its placement from the *mean*, not from the AUROC of
    its own unit. Half of PerturbQA's genes have a single positive. Its placement equals the AUROC of its gene, so the
    distance from that AUROC would be 0, and the item would say nothing about the perturbation that it shares with other
    genes.
    """

    def estimated(runs: PredictionArrays, rows: Ints) -> Estimate:
        positive, classes = positives(runs.label[rows], task)
        if positive.all() or not positive.any():
            return no_value(rows, f"needs {classes}")
        if unit is None:
            everywhere = np.zeros(len(rows), dtype=np.intp)
            return replace(_mean_auroc(runs, task, rows, positive, everywhere), psi_unit=None)
        group, both = _units(runs, rows, positive, unit)
        if not both.any():
            return no_value(rows, f"no {_UNIT_NAMES[unit]} has {classes}")
        kept = both[group]
        within = (np.cumsum(both) - 1)[group[kept]]
        found = _mean_auroc(runs, task, rows[kept], positive[kept], within)
        if found.reason:
            return found
        return replace(found, unit=unit, n_units=int(both.sum()), n_units_left_out=int((~both).sum()))

    return estimated


def mean_of_aurocs(runs: PredictionArrays, rows: Ints) -> Estimate:
    """Mean of the pooled AUROCs of `de` and `dir`, the latter over the items that changed."""
    changed = np.flatnonzero(runs.label[rows] != NONE)
    de, direction = auroc("de")(runs, rows), auroc("dir")(runs, rows[changed])
    if reason := de.reason or direction.reason:
        return no_value(rows, reason)
    psi = de.psi / 2
    psi[changed] += direction.psi / 2
    return Estimate((de.values + direction.values) / 2, rows, psi)


def _units(runs: PredictionArrays, rows: Ints, positive: Bools, unit: Literal["gene", "pert"]) -> tuple[Ints, Bools]:
    """Unit of each item, and whether each unit has both classes.

    A gene is measured in each cell line, so the unit is (line, gene). Errors cluster on the gene's symbol alone.
    """
    names = runs.gene if unit == "gene" else runs.pert
    code, units = pd.factorize(runs.line.codes[rows].astype(np.int64) * len(names.categories) + names.codes[rows])
    return code, both_classes(positive, code, len(units))


def _mean_auroc(runs: PredictionArrays, task: str, rows: Ints, positive: Bools, group: Ints) -> Estimate:
    """Mean over groups of the AUROC within them; each group has both classes."""
    size = np.bincount(group)
    n_groups = len(size)
    # Weight of an item: 1 / (number of its class in its group x number of groups).
    weight = 1 / (np.bincount(group * 2 + positive, minlength=2 * n_groups)[group * 2 + positive] * n_groups)
    values, psi, psi_unit = [], np.zeros(len(rows)), np.zeros(len(rows))
    for prob in runs.prob:
        score = task_score(prob[rows], task)
        if np.isnan(score).all():
            return no_value(rows, "no probabilities")
        placement, of_group = placements(positive, score, group, n_groups)
        values.append(float(of_group.mean()))
        psi += (placement - of_group.mean()) * weight / len(runs.seeds)
        psi_unit += ((of_group - of_group.mean()) / (n_groups * size))[group] / len(runs.seeds)
    return Estimate(np.array(values), rows, psi, psi_unit=psi_unit)


def auprc(task: str) -> Estimator:
    """Make an estimator of the average precision of the task's score."""

    def estimated(runs: PredictionArrays, rows: Ints) -> Estimate:
        positive, classes = positives(runs.label[rows], task)
        if positive.all() or not positive.any():
            return no_value(rows, f"needs {classes}")
        values, psi = [], np.zeros(len(rows))
        for prob in runs.prob:
            score = task_score(prob[rows], task)
            if np.isnan(score).all():
                return no_value(rows, "no probabilities")
            value, of_run = average_precision(positive, score)
            values.append(value)
            psi += of_run / len(runs.seeds)
        return Estimate(np.array(values), rows, psi)

    return estimated


def task_score(prob: Floats, task: str) -> Floats:
    """(N,) the score that ranks items: the odds of a change (`de`), or of up against down (`dir`); NaN where unknown.

    Odds distinguish nearly certain and nearly impossible items at any scale. They are rounded to 12 significant digits,
    which is the precision of the arithmetic. So .1/.2 and .3/.6 (vote shares, for example) are a tie, although their
    last binary digits differ.

    Args:
        prob: (N, 3) probabilities of the labels. Where only p_none is known, it still gives the odds of a change.
        task: `de` or `dir`.
    """
    if task == "dir":
        return _odds(prob[:, UP], prob[:, DOWN])
    change = prob[:, UP] + prob[:, DOWN]
    return _odds(np.where(np.isnan(change), 1 - prob[:, NONE], change), prob[:, NONE])


def _odds(for_it: Floats, against: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mantissa, exponent = np.frexp(_without_remainder(for_it) / _without_remainder(against))
    return np.asarray(np.ldexp(np.round(mantissa, _SCORE_DIGITS), exponent))


def _without_remainder(prob: Floats) -> Floats:
    """Replace by 0 a rounding error that is left where the exact result is 0: 1 - .3 - .7 gives 2^-54.

    Such an error is a whole multiple of the last binary digit of the numbers subtracted, so of 2^-60. A genuine
    probability of this size is such a multiple only with probability 2^-40.
    """
    step = 2.0**-8  # its last binary digit is 2^-60
    return np.where((prob < 2.0**-50) & ((prob + step) - step == prob), 0.0, prob)
