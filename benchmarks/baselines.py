"""Shortcuts that a model must beat: forecasts from training labels alone, without a language model."""

from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.corpus import Corpus
from benchmarks.predictions import COLUMNS, PROBABILITIES
from rewards import LABELS, Status


def majority(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast every item by the training shares of the labels; the answer is always the commonest one."""
    total = sum(corpus.train_counts.values())
    shares = {name: corpus.train_counts[label] / total for name, label in zip(PROBABILITIES, LABELS, strict=True)}
    return pd.DataFrame({"item_id": items["item_id"].to_numpy(), **shares})


def gene_rate(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast an item by how its gene responds to other knockdowns in the same line."""
    return corpus.rates(items)


def cross_line_neighbours(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast an item by what similar knockdowns did to the same gene; see `benchmarks.neighbours`."""
    return corpus.neighbour_forecast(items)


BASELINES: Final[dict[str, Callable[[Corpus, pd.DataFrame], pd.DataFrame]]] = {
    "majority class": majority,
    "gene rate": gene_rate,
    "cross-line neighbours": cross_line_neighbours,
}


def predict_baselines(corpus: Corpus, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return a predictions frame per baseline, fitted on the corpus's training labels.

    Args:
        corpus: labels under a split.
        items: the items to forecast.
    """
    return {name: as_predictions(items, forecast(corpus, items)) for name, forecast in BASELINES.items()}


def as_predictions(items: pd.DataFrame, forecast: pd.DataFrame) -> pd.DataFrame:
    """Turn label probabilities into a predictions frame; the answer is the likeliest label, the first among equals.

    Args:
        items: N items with `item_id`, `cell_line`, `pert`, `gene`, `label`.
        forecast: N rows `item_id`, `p_up`, `p_down`, `p_none` in the same order.
    """
    probability_NL = forecast[list(PROBABILITIES)].to_numpy(dtype=float)
    if not np.isfinite(probability_NL).all():
        raise ValueError(f"{forecast['item_id'][~np.isfinite(probability_NL).all(axis=1)].iloc[0]}: no finite forecast")
    answers = np.array([str(label) for label in LABELS], dtype=object)[probability_NL.argmax(axis=1)]
    frame = items[["item_id", "cell_line", "pert", "gene", "label"]].astype(str).reset_index(drop=True)
    return frame.assign(
        sample=0,
        seed=0,
        completion=None,
        answer=answers,
        status=str(Status.ANSWERED),
        completion_tokens=0,
        finish_reason="stop",
        **dict(zip(PROBABILITIES, probability_NL.T, strict=True)),
    )[list(COLUMNS)]
