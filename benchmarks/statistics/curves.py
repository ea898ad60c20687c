"""Curves of one system: reliability (how often the likeliest label is right, by its probability) and pooled ROC."""

from typing import Final

import numpy as np

from benchmarks.statistics.arrays import UP, Bools, Floats, PredictionArrays
from benchmarks.statistics.estimates import positives, scorable_rows, task_score, top_label
from benchmarks.statistics.reliability import Bin, reliability_bins
from rewards import LABELS

MAX_ROC_POINTS: Final = 200


def reliability(runs: PredictionArrays) -> list[Bin]:
    """Reliability of the likeliest label's probability, over the forecasts of all training runs together.

    Args:
        runs: one system's predictions.

    Returns:
        The bins of `reliability_bins`; empty where the system has no score. With one training run `ece` is the
        `expected_calibration_error` of these bins. With several, `ece` is the mean over runs.
    """
    if "three_class" not in runs.tasks:
        return []
    rows = scorable_rows(runs, "three_class")
    prob = runs.prob[:, rows].reshape(-1, len(LABELS))
    label = np.tile(runs.label[rows], len(runs.seeds))
    scored = ~np.isnan(prob[:, UP])
    return reliability_bins(*top_label(label[scored], prob[scored])) if scored.any() else []


def roc_points(runs: PredictionArrays, task: str) -> list[tuple[float, float]]:
    """Points of the pooled ROC curve, whose area is the pooled AUROC.

    Half of the items without a score are placed above all others and half below, so that each counts 1/2 in every
    pair. The curves of several training runs are averaged at equal sums of the two rates. The area of the result is
    then the mean of the runs' areas.

    Args:
        runs: one system's predictions.
        task: `de` or `dir`.

    Returns:
        `(false positive rate, true positive rate)` from (0, 0) to (1, 1). A curve with at most `MAX_ROC_POINTS`
        corners has all of them; any other has that many points, evenly spaced along it. Empty where a class is absent
        or a run has no score.
    """
    if task not in runs.tasks:
        return []
    rows = scorable_rows(runs, task)
    positive, _ = positives(runs.label[rows], task)
    scores = [task_score(prob[rows], task) for prob in runs.prob]
    if positive.all() or not positive.any() or any(np.isnan(score).all() for score in scores):
        return []
    curves = [_roc_corners(positive, score) for score in scores]
    # Both rates only grow, so their sum tells positions along the curve apart, on its vertical steps too.
    along = [rates.sum(axis=0) for rates in curves]
    at = np.unique(np.concatenate(along))
    if len(at) > MAX_ROC_POINTS:
        at = np.linspace(0, 2, MAX_ROC_POINTS)
    runs_at = [[np.interp(at, where, rate) for rate in rates] for where, rates in zip(along, curves, strict=True)]
    return [(float(false), float(true)) for false, true in np.mean(runs_at, axis=0).T]


def _roc_corners(positive: Bools, score: Floats) -> Floats:
    """(2, corners) the false and the true positive rate at each corner."""
    known = ~np.isnan(score)
    order = np.flatnonzero(known)[np.argsort(-score[known])]
    last_of_tie = np.flatnonzero(np.append(score[order][1:] != score[order][:-1], True))
    rates = []
    for member in (~positive, positive):
        half_unknown = float((member & ~known).sum() / 2)
        above = half_unknown + np.cumsum(member[order])[last_of_tie]
        rates.append(np.concatenate([[0.0, half_unknown], above, [member.sum()]]) / member.sum())
    return np.array(rates)
