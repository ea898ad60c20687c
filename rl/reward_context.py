"""What rewards need to know of the data: class counts, named forecasts and gene rates."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.evaluation.unseen import low_rank, transfer, two_sided_neighbours
from benchmarks.evidence.corpus import Corpus
from rewards import LABELS
from rewards.compose import Context
from rewards.verifiers import PROBABILITIES

# Tables for perturbations and genes without training rows.
UNSEEN: Final[dict[str, Callable[[Corpus, pd.DataFrame], pd.DataFrame]]] = {
    "two_sided": two_sided_neighbours,
    "low_rank": low_rank,
    "transfer": transfer,
}


def reward_context(
    items: pd.DataFrame, corpus: Corpus, *, folder: Path, counts: Mapping[str, int] | None = None
) -> Context:
    """Return the context that rewards are made with.

    A gene's rate of a label is the share of its rows with that label. Rates hold for the prompts, whose labels may be
    drawn more or less often than they occur in training. The rates are then reweighted and normalised (prior shift:
    Saerens et al., 2002, 10.1162/089976602753284446).

    The table `gene_rate` is a forecast, which leaves out the item's own label. `prompt_rates`, which the reward
    `margin` subtracts, counts the item's own label.

    Args:
        items: the rows that will be scored, with `item_id`, `cell_line`, `pert`, `gene`, `label`. An item may recur.
        corpus: its training labels, and its reference screen, give the tables `neighbours` and `gene_rate`, and those
            for unseen perturbations and genes: `two_sided`, `low_rank` and `transfer`
            (`benchmarks.evaluation.unseen`). A table is made when a reward asks for it.
        folder: the configuration's folder, which relative paths in the configuration start from.
        counts: rows per label among the prompts; by default those of `items`.
    """
    once = items.drop_duplicates("item_id")
    if counts is None:
        counts = label_counts(once)
    drawn = dict(counts)
    return Context(
        train_counts=counts,
        tables={
            "neighbours": lambda: corpus.neighbour_forecast(once),
            "gene_rate": lambda: shift_rates(corpus.rates(once), drawn, label_counts(corpus.train)),
            **{name: partial(forecast, corpus, once) for name, forecast in UNSEEN.items()},
        },
        folder=folder,
        prompt_rates=lambda: prompt_rates(once, corpus, drawn),
    )


def stand_in_context(folder: Path) -> Context:
    """Return a context of made-up counts and forecasts, with which a configuration can be checked without the data.

    Args:
        folder: the configuration's folder, which relative paths in the configuration start from.
    """
    table = pd.DataFrame({"item_id": ["rpe1|AARS|CALR"], **dict.fromkeys(PROBABILITIES, 1 / len(LABELS))})
    return Context(
        train_counts={str(label): 1 for label in LABELS},
        tables={name: lambda: table for name in ("neighbours", "gene_rate", *UNSEEN)},
        folder=folder,
        prompt_rates=lambda: table,
    )


def label_counts(items: pd.DataFrame) -> dict[str, int]:
    """Return the number of rows of each label."""
    return {str(label): int((items["label"].astype(str) == str(label)).sum()) for label in LABELS}


def shift_rates(rates: pd.DataFrame, drawn: Mapping[str, int], trained: Mapping[str, int]) -> pd.DataFrame:
    """Reweight label rates of the training rows to the label shares of the prompts.

    Args:
        rates: `item_id, p_up, p_down, p_none` among the training rows.
        drawn: prompts per label, or numbers proportional to them; 0 for a label that no prompt has. If all are 0,
            because no prompt has a label, the rates stay unchanged.
        trained: training rows per label.
    """
    if not any(drawn.values()):
        return rates
    weight_L = np.array([drawn[label] / trained[label] if trained.get(label) else 0.0 for label in map(str, LABELS)])
    p_NL = rates[list(PROBABILITIES)].to_numpy() * weight_L
    total_N = p_NL.sum(axis=1, keepdims=True)
    prior_L = np.array([drawn[label] for label in map(str, LABELS)]) / sum(drawn.values())
    p_NL = np.where(
        total_N > 0, p_NL / np.where(total_N > 0, total_N, 1.0), prior_L
    )  # a gene all of whose labels have drawn 0
    return rates.assign(**dict(zip(PROBABILITIES, p_NL.T, strict=True)))


def prompt_rates(items: pd.DataFrame, corpus: Corpus, drawn: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return `item_id, p_up, p_down, p_none`: the share of each label among the prompts of the item's gene and line.

    Let the gene have k_a training rows of label a, and let the prompts hold label a w_a times as often as the training
    rows do. The rate of a is r_a = k_a w_a / S, with S the sum of k_b w_b over the labels b.

    The item's own row counts. The mean of [label = a] - r_a over the gene's prompts is then 0 for every answer a, so
    that always giving the same answer earns 0. Without the own row, each term would be multiplied by S / (S - w), with
    w the weight of the item's own label. Always answering a rare label would then earn more than 0, and always
    answering a frequent one less.

    Two kinds of item have the rates that the corpus forecasts, which leave out the own row: an item whose gene has no
    training row in its line, and an item of the sample, which lacks the gene's other rows.

    Args:
        items: as in `reward_context`.
        corpus: as in `reward_context`.
        drawn: as in `shift_rates`; None if the prompts have the label shares of the training rows.
    """
    rates = corpus.rates(items)
    if not corpus.is_sample:
        train = corpus.train[["cell_line", "gene", "label"]].astype(str)
        k_GL = train.groupby(["cell_line", "gene"])["label"].value_counts().unstack(fill_value=0)
        k_GL = k_GL.reindex(columns=list(map(str, LABELS)), fill_value=0)
        k_NL = k_GL.reindex(pd.MultiIndex.from_frame(items[["cell_line", "gene"]].astype(str))).to_numpy(dtype=float)
        known_N = ~np.isnan(k_NL).any(axis=1)
        rates.loc[known_N, list(PROBABILITIES)] = k_NL[known_N] / k_NL[known_N].sum(axis=1, keepdims=True)
    return rates if drawn is None else shift_rates(rates, drawn, label_counts(corpus.train))
