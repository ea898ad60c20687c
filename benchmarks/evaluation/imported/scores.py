"""Scores in a file of predictions, as probabilities of the three labels."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.imported.answers import CHANGES
from benchmarks.evaluation.imported.columns import as_objects, refuse_rows
from benchmarks.evaluation.predictions import PROBABILITIES, TASKS
from benchmarks.tables import numbers
from rewards import LABELS, Label

# Smallest probability of a change that is kept where the direction is known too; with 0 the direction would be lost.
_LEAST_CHANGE: Final = 1e-200
_TOLERANCE: Final = 0.01 + 1e-6  # for a sum of decimals; the second term is for their rounding in binary, 32 bits too


def scores_of(
    table: pd.DataFrame, failed: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any], tuple[str, ...] | None]:
    """(N, 3) probabilities over the labels, NaN where unknown; (N,) the likeliest answer; the tasks answered.

    A change without a direction is answered `CHANGES`. Without scores there are no tasks.
    """
    if PROBABILITIES[0] in table:
        return *_three_scores(table), TASKS
    p_de = _probability(table, "p_de") if "p_de" in table else None
    p_dir = _probability(table, "p_dir") if "p_dir" in table else None
    if p_de is not None and p_dir is not None and not np.isnan(p_dir).all():
        alone = np.isnan(p_de) & ~np.isnan(p_dir) & ~failed
        refuse_rows(
            table, alone, "p_dir without p_de, so a change has no probability; fill in p_de, or leave the row out"
        )
        change = np.maximum(p_de, _LEAST_CHANGE)
        likeliest = np.where(p_de >= 0.5, _direction(p_dir), str(Label.NONE)).astype(object)
        likeliest[np.isnan(p_de)] = None
        return np.column_stack([change * p_dir, change * (1 - p_dir), 1 - change]), likeliest, TASKS
    if p_de is not None:
        likeliest = np.where(p_de >= 0.5, CHANGES, str(Label.NONE)).astype(object)
        likeliest[np.isnan(p_de)] = None
        return np.column_stack([p_de / 2, p_de / 2, 1 - p_de]), likeliest, ("de",)
    if p_dir is not None:
        likeliest = _direction(p_dir)
        likeliest[np.isnan(p_dir)] = None
        return np.column_stack([p_dir, 1 - p_dir, np.where(np.isnan(p_dir), np.nan, 0.0)]), likeliest, ("dir",)
    return np.full((len(table), len(LABELS)), np.nan), as_objects([None] * len(table)), None


def _three_scores(table: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    prob = np.column_stack([_probability(table, key) for key in PROBABILITIES])
    unknown = np.isnan(prob)
    refuse_rows(table, unknown.any(axis=1) & ~unknown.all(axis=1), "some of the three scores are missing; fix the row")
    total = prob.sum(axis=1, keepdims=True)
    refuse_rows(table, np.abs(total[:, 0] - 1) > _TOLERANCE, "the scores do not add up to 1; fix the row")
    likeliest = np.array(LABELS, dtype=object)[np.where(unknown, -1.0, prob / total).argmax(axis=1)].astype(str)
    likeliest = likeliest.astype(object)
    likeliest[unknown.any(axis=1)] = None
    return prob / total, likeliest


def _direction(p_dir: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """(N,) up or down; `CHANGES` where the direction is unknown."""
    direction = np.where(p_dir >= 0.5, str(Label.UP), str(Label.DOWN)).astype(object)
    direction[np.isnan(p_dir)] = CHANGES
    return direction


def fill_directions(
    table: pd.DataFrame, answer: npt.NDArray[Any], scored: tuple[str, ...] | None, likeliest: npt.NDArray[Any]
) -> tuple[str, ...]:
    """Give answers without direction the direction of the scores, and return the tasks that are answered."""
    undirected = answer == CHANGES
    if scored == TASKS and "p_dir" in table:
        direction = _direction(_probability(table, "p_dir"))
        answer[undirected] = direction[undirected]
        return TASKS
    if undirected.any() and np.isin(answer.astype(str), [str(Label.UP), str(Label.DOWN)]).any():
        refuse_rows(table, undirected, f"{CHANGES!r}, while other rows have a direction; import them separately")
    if scored is not None and scored != TASKS:
        return scored
    return ("de",) if undirected.any() else TASKS


def _probability(table: pd.DataFrame, key: str) -> npt.NDArray[np.float64]:
    """(N,) a column of probabilities, NaN where empty."""
    values = numbers(table[key])
    refuse_rows(table, np.isnan(values) & table[key].notna().to_numpy(), f"{key} is not a number; fix it")
    with np.errstate(invalid="ignore"):
        refuse_rows(table, (values < 0) | (values > 1), f"{key} is not within 0 and 1; rescale the column")
    return values
