"""The metrics: one entry each. All tables, figures, tests and the report read them from here.

To add a metric, add an entry to `METRICS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.evaluation.predictions import TASKS
from benchmarks.screens import bioreasoning
from benchmarks.statistics.arrays import DOWN, NONE, UP, Bools, PredictionArrays
from benchmarks.statistics.estimates import (
    Estimate,
    Estimator,
    accuracy,
    auprc,
    auroc,
    balanced_accuracy,
    balanced_direction,
    brier,
    calibration_error,
    changed_or_not,
    macro_f1,
    mcc,
    mean_of_aurocs,
    no_value,
    of_confusion,
    precision,
    recall,
    scorable_rows,
)
from rewards import LABELS, InputError


@dataclass(frozen=True)
class Metric:
    """A metric of one task.

    Attributes:
        name: as in report.json. Unique within a task; without a task it means the first entry of that name.
        task: one of `benchmarks.evaluation.predictions.TASKS`.
        label: what a report calls it beside its task.
        definition: what it measures, in sentences for a reader of the report.
        estimator: computes its value and the influence of every item; see `benchmarks.statistics.estimates`.
        range: smallest and largest value.
        higher_is_better: False for an error.
        compared: whether reports compare systems on it.
        official: whether it is PerturbQA's own metric. Reports compare it first and show it per cell line and stratum.
        by_label: whether it measures one label, which `label` names after a comma; reports show all such in one table.
        no_interval: why it has a value but no interval; "" where the influences give one.
        chance: a function from the shares of the three labels to the score of a system without knowledge, and the
            name of such a system; None where no such score is shown.
        screen: name of the one screen whose reports show it; "" for all.
        alone: whether only reports on its task alone show it: it takes answers that choose between the task's labels.
    """

    name: str
    task: str
    label: str
    definition: str
    estimator: Estimator
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    compared: bool = False
    official: bool = False
    by_label: bool = False
    no_interval: str = ""
    chance: "tuple[Callable[[Mapping[str, float]], float], str] | None" = None
    screen: str = ""
    alone: bool = False

    @property
    def long_label(self) -> str:
        """The label with its task, for places that do not show the task."""
        return self.label + {"three_class": "", "de": " (DE)", "dir": " (direction)"}[self.task]


_POOLED: Final = (
    "The chance that {one} gets a higher score ({score}) than {other}, over all pairs of items. {common} Pooled over "
    "genes, it rewards knowing {usual}."
)
_AUPRC: Final = (
    "Area under the precision-recall curve for finding {one} (average precision), over all items. A score without "
    "information gets the share of positives, {share}, so values are only comparable on the same items."
)
_PER_GENE: Final = (
    "The chance that {one} gets a higher score than {other} of the same gene in the same cell line, averaged over the "
    "genes that have both: does the system know which knockdowns {verb} a gene? {common} The official metric of "
    "PerturbQA."
)
_PER_PERTURBATION: Final = (
    "The same within a perturbation in a cell line, averaged over the perturbations that have both: does the system "
    "know which genes a knockdown {verb}? Like the pooled AUROC, it rewards knowing {usual}."
)
_COMMON: Final = "Ties, and pairs in which an item has no score, count half; 0.5 is chance."
_DE: Final = {
    "one": "a changed item", "other": "an unchanged one", "score": "1 - p(not DE)", "common": _COMMON,
    "share": "changed items among all (in PerturbQA about one in seven)", "usual": "which genes respond to anything",
}  # fmt: skip
_DIR: Final = {
    "one": "an upregulated item",
    "other": "a downregulated one",
    "score": "p(up) / (p(up) + p(down))",
    "common": _COMMON,
    "share": "upregulated items among the changed ones",
    "usual": "which way a gene usually goes",
}
_CHANCE: Final = (lambda shares: 0.5, "chance")
_RECALL: Final = "Of the items with this label, the share answered with it. No answer is a miss."
_PRECISION: Final = "Of the items answered with this label, the share that has it. No value where it is never answered."


def _commoner_direction(shares: Mapping[str, float]) -> float:
    """What answering the commoner of up and down scores, among the items that changed; 1/2 where there are none."""
    up, down = (shares[str(LABELS[at])] for at in (UP, DOWN))
    return max(up, down) / (up + down) if up + down else 0.5


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "accuracy",
        "three_class",
        "Accuracy",
        "Share of items answered with the right label of the three. No answer is a wrong answer. Where most items "
        "are “not differentially expressed”, as in PerturbQA, a system that always gives this answer scores high.",
        of_confusion(accuracy),
        compared=True,
        chance=(lambda shares: max(shares.values()), "majority class"),
    ),
    Metric(
        "balanced_accuracy",
        "three_class",
        "Balanced accuracy",
        "Share answered right, taken within each true label and averaged over the three. A constant answer scores 1/3.",
        of_confusion(balanced_accuracy),
        compared=True,
        chance=(lambda shares: 1 / len(LABELS), "constant answer"),
    ),
    Metric(
        "macro_f1",
        "three_class",
        "Macro F1",
        "F1, which punishes missed and false alarms alike, averaged over the three labels.",
        of_confusion(macro_f1),
        compared=True,
    ),
    Metric(
        "mcc",
        "three_class",
        "MCC",
        "Matthews correlation of answer and truth over three classes: 1 is perfect, 0 is no relation.",
        of_confusion(mcc),
        range=(-1.0, 1.0),
        compared=True,
    ),
    Metric("recall_up", "three_class", "Recall, up", _RECALL, recall(UP), by_label=True),
    Metric("recall_down", "three_class", "Recall, down", _RECALL, recall(DOWN), by_label=True),
    Metric("recall_none", "three_class", "Recall, not DE", _RECALL, recall(NONE), by_label=True),
    Metric("precision_up", "three_class", "Precision, up", _PRECISION, precision(UP), by_label=True),
    Metric("precision_down", "three_class", "Precision, down", _PRECISION, precision(DOWN), by_label=True),
    Metric("precision_none", "three_class", "Precision, not DE", _PRECISION, precision(NONE), by_label=True),
    Metric(
        "brier",
        "three_class",
        "Brier score",
        "Squared error of the three probabilities, summed: 0 is perfect, 0.667 is “one third each” (which an item "
        "without probabilities counts as). Lower is better.",
        brier,
        range=(0.0, 2.0),
        higher_is_better=False,
    ),
    Metric(
        "ece",
        "three_class",
        "ECE",
        "Expected calibration error: the distance between the probability of the likeliest label and how often that "
        "label is right, averaged over ten equally wide bins. It is biased upwards where items are few, so it has no "
        "interval. Lower is better.",
        calibration_error,
        higher_is_better=False,
        no_interval="no interval: ECE is biased upwards in small samples",
    ),
    Metric(
        "challenge_score",
        "three_class",
        "Challenge score",
        "What the BioReasoning Challenge ranks by: the mean of two pooled AUROCs. One is of changed items against "
        "unchanged ones, by p(up) + p(down). The other is of upregulated items against downregulated ones, by p(up) / "
        "(p(up) + p(down)). Ties, and pairs in which an item has no score, count half; 0.5 is chance.",
        mean_of_aurocs,
        compared=True,
        chance=_CHANCE,
        screen=bioreasoning.SCREEN,
    ),
    Metric(
        "accuracy",
        "de",
        "Accuracy",
        "Share of items for which “changed or not” is right. No answer is a wrong answer.",
        changed_or_not,
    ),
    Metric("de_auroc", "de", "Pooled AUROC", _POOLED.format(**_DE), auroc("de"), compared=True, chance=_CHANCE),
    Metric("de_auprc", "de", "Pooled AUPRC", _AUPRC.format(**_DE), auprc("de")),
    Metric(
        "de_per_gene_auroc",
        "de",
        "Per-gene AUROC",
        _PER_GENE.format(**_DE, verb="change"),
        auroc("de", "gene"),
        compared=True,
        official=True,
        chance=_CHANCE,
    ),
    Metric(
        "de_per_perturbation_auroc",
        "de",
        "Per-perturbation AUROC",
        _PER_PERTURBATION.format(**_DE, verb="changes"),
        auroc("de", "pert"),
        chance=_CHANCE,
    ),
    Metric(
        "dir_accuracy",
        "dir",
        "Accuracy",
        "Share of the items that changed for which “up or down” is right. Any other answer, and no answer, is wrong. "
        "It rewards knowing which way a gene usually goes.",
        of_confusion(accuracy),
        compared=True,
        chance=(_commoner_direction, "majority class"),
        alone=True,
    ),
    Metric(
        "dir_balanced_accuracy",
        "dir",
        "Balanced accuracy",
        "Share answered right, taken within the upregulated and within the downregulated items and averaged over the "
        "two. A constant answer scores 1/2.",
        balanced_direction,
        compared=True,
        chance=(lambda shares: 0.5, "constant answer"),
        alone=True,
    ),
    Metric("dir_auroc", "dir", "Pooled AUROC", _POOLED.format(**_DIR), auroc("dir"), compared=True, chance=_CHANCE),
    Metric("dir_auprc", "dir", "Pooled AUPRC", _AUPRC.format(**_DIR), auprc("dir")),
    Metric(
        "dir_per_gene_auroc",
        "dir",
        "Per-gene AUROC",
        _PER_GENE.format(**_DIR, verb="raise and which lower"),
        auroc("dir", "gene"),
        compared=True,
        official=True,
        chance=_CHANCE,
    ),
    Metric(
        "dir_per_perturbation_auroc",
        "dir",
        "Per-perturbation AUROC",
        _PER_PERTURBATION.format(**_DIR, verb="raises and which it lowers"),
        auroc("dir", "pert"),
        chance=_CHANCE,
    ),
)


def tasks_of(asked: str) -> tuple[str, ...]:
    """Return the tasks that a report shows whose models were `asked` one of `TASKS`; of three classes, all."""
    return TASKS if asked == "three_class" else (asked,)


def metrics_of(task: str, screen: str = "", asked: str = "three_class") -> list[Metric]:
    """Return a task's metrics that reports show, in their order.

    Args:
        task: one of `TASKS`.
        screen: the screen that the reports are on; "" for those of every screen.
        asked: what their models were asked, one of `TASKS`.
    """
    return [metric for metric in _shown(screen, asked) if metric.task == task]


def _shown(screen: str, asked: str) -> list[Metric]:
    return [
        metric
        for metric in METRICS
        if metric.task in tasks_of(asked)
        and metric.screen in ("", screen)
        and (asked == metric.task or not metric.alone)
    ]


def metric_names() -> list[str]:
    """Return the names of all metrics, each once; `accuracy` without a task is the three-class one."""
    return list(dict.fromkeys(metric.name for metric in METRICS))


def compared_metrics(screen: str = "", asked: str = "three_class") -> list[str]:
    """Return the names of the metrics on which reports compare systems, PerturbQA's own first; see `metrics_of`."""
    compared = [metric for metric in _shown(screen, asked) if metric.compared]
    return [metric.name for metric in sorted(compared, key=lambda metric: not metric.official)]


def find_metric(name: str, task: str | None = None) -> Metric:
    """Return a metric by its name.

    Args:
        name: the metric's name.
        task: its task; None for the first metric of that name.

    Raises:
        InputError: there is no such metric.
    """
    found = next((one for one in METRICS if one.name == name and task in (None, one.task)), None)
    if found is None:
        asked = repr(name) if task is None else f"{task}/{name}"
        known = metric_names() if task not in TASKS else [one.name for one in metrics_of(str(task))]
        raise InputError(f"metric: {asked} is unknown; use one of {', '.join(known)}")
    return found


def estimate(runs: PredictionArrays, task: str, metric: str, use: Bools | None = None) -> Estimate:
    """Compute a metric and the influence of each item on it.

    Args:
        runs: one system's predictions.
        task: one of `TASKS`; `dir` uses only items labelled up or down.
        metric: the name of one of the task's metrics.
        use: (N,) a mask of the items to consider; None for all. Unscorable items are always left out.

    Returns:
        The estimate. Where the items or the system do not allow one, it has no values and gives the reason.

    Raises:
        InputError: the task has no such metric.
    """
    entry = find_metric(metric, task)
    if task not in runs.tasks:
        return no_value(np.empty(0, dtype=np.intp), f"the system answers {' and '.join(runs.tasks)} only")
    rows = scorable_rows(runs, task, use)
    if not rows.size:
        return no_value(rows, "no item to score")
    return replace(entry.estimator(runs, rows), no_interval=entry.no_interval)
