"""Ranks behind AUROC and AUPRC: kept at any scale, while equal shares of votes stay ties."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate

UP, DOWN, NONE = "upregulated", "downregulated", "not differentially expressed"


def frame(labels: list[str], probabilities: list[tuple[float, float, float]]) -> pd.DataFrame:
    found = pd.DataFrame(probabilities, columns=["p_up", "p_down", "p_none"])
    items = [f"k562|P|G{at}" for at in range(len(labels))]
    return found.assign(
        item_id=items, cell_line="k562", pert="P", gene=[item.split("|")[2] for item in items], label=labels,
        answer=NONE, status="answered",
    )  # fmt: skip


def value(rows: pd.DataFrame, metric: str) -> float:
    return estimate(prediction_arrays(rows), metric.split("_")[0], metric).value


@pytest.mark.parametrize("scale", [1e-3, 1e-9, 1e-13, 1e-16, 1e-40, 1e-290])
@pytest.mark.parametrize("metric", ["de_auroc", "de_auprc"])
def test_small_changes_are_ranked(scale: float, metric: str) -> None:
    changes = [3 * scale, 2 * scale, 1.9 * scale, scale]
    rows = [(change * 0.7, change * 0.3, 1 - change) for change in changes]
    assert value(frame([UP, DOWN, NONE, NONE], rows), metric) == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1e-9, 1e-13, 1e-16, 1e-40])
def test_changes_that_are_nearly_certain_are_ranked(scale: float) -> None:
    rows = [((1 - rest) / 2, (1 - rest) / 2, rest) for rest in (scale, 1.9 * scale, 2 * scale, 3 * scale)]
    assert value(frame([UP, DOWN, NONE, NONE], rows), "de_auroc") == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1e-9, 1e-13, 1e-16, 1e-40])
def test_directions_that_are_nearly_certain_are_ranked(scale: float) -> None:
    rows = [(1 - rest, rest, 0.0) for rest in (scale, 1.9 * scale, 2 * scale, 3 * scale)]
    assert value(frame([UP, UP, DOWN, DOWN], rows), "dir_auroc") == 1.0
    down = [(up, down, rest) for down, up, rest in rows]
    assert value(frame([DOWN, DOWN, UP, UP], down), "dir_auroc") == 1.0


@pytest.mark.parametrize("n", [3, 7, 10, 16, 30])
def test_equal_shares_of_votes_are_ties(n: int) -> None:
    one_hot = np.eye(3)
    rows, labels = [], []
    rng = np.random.default_rng(n)
    for at in range(40):
        votes = rng.permutation(np.repeat([0, 1, 2], [1, 1, n - 2]))
        total = np.zeros(3)
        for vote in votes:  # sums in any order, so that last digits differ
            total += one_hot[vote] / n
        rows.append(tuple(total))
        labels.append((UP, DOWN, NONE)[at % 3])
    assert value(frame(labels, rows), "de_auroc") == 0.5
    assert value(frame(labels, rows), "dir_auroc") == 0.5


def test_shares_that_arithmetic_makes_equal_are_ties() -> None:
    rows = [(0.1, 0.2, 0.7), (0.3, 0.6, 0.1), (0.2, 0.4, 0.4), (0.1 + 0.2, 0.6, 0.1)]
    assert value(frame([UP, DOWN, UP, DOWN], rows), "dir_auroc") == 0.5
    halves = [(0.1 + 0.2, 0.2, 0.5), (0.25, 0.25, 0.5), (0.3, 0.2, 0.5), (0.5, 0.0, 0.5)]
    assert value(frame([UP, NONE, NONE, UP], halves), "de_auroc") == 0.5


def test_what_subtracting_leaves_is_nothing() -> None:
    pairs = [(0.3, 0.7), (0.1, 0.9), (0.8, 0.2), (0.35, 0.65), (0.4, 0.6), (0.15, 0.85)]
    rows = [(up, down, abs(1 - up - down)) for up, down in pairs]
    assert len({rest for _, _, rest in rows}) > 1
    assert value(frame([UP, NONE, UP, NONE, UP, NONE], rows), "de_auroc") == 0.5


def test_certain_answers_are_ties() -> None:
    rows = [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
    assert value(frame([UP, UP, NONE, NONE], rows), "de_auroc") == 0.5
