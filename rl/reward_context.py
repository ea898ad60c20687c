"""What rewards need to know of the data: class counts and forecasts by name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evidence.corpus import Corpus
from rewards import LABELS
from rewards.compose import Context
from rewards.verifiers import PROBABILITIES


def reward_context(
    items: pd.DataFrame, corpus: Corpus, *, folder: Path, counts: Mapping[str, int] | None = None
) -> Context:
    """Return what rewards are made with.

    Rates hold among the prompts: where labels are drawn more or less often than they occur in training, each gene's
    rates are weighted by that and add up to 1 again (prior shift: Saerens et al., 2002, 10.1162/089976602753284446).
    The table `gene_rate` is a forecast, without the item's own label; what `margin` takes off is `prompt_rates`.

    Args:
        items: the rows that will be scored, with `item_id`, `cell_line`, `pert`, `gene`, `label`; each item may recur.
        corpus: whose training labels the tables `neighbours` and `gene_rate` come from, made when a reward asks.
        folder: of the configuration: files that it names are relative to it.
        counts: rows per label among the prompts; those of the items by default.
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
        },
        folder=folder,
        prompt_rates=lambda: prompt_rates(once, corpus, drawn),
    )


def label_counts(items: pd.DataFrame) -> dict[str, int]:
    """Return how often each label occurs."""
    return {str(label): int((items["label"].astype(str) == str(label)).sum()) for label in LABELS}


def shift_rates(rates: pd.DataFrame, drawn: Mapping[str, int], trained: Mapping[str, int]) -> pd.DataFrame:
    """Return label rates as they are among prompts whose labels were drawn otherwise than they occur.

    Args:
        rates: `item_id, p_up, p_down, p_none` among the training rows.
        drawn: prompts per label, or any numbers in their proportion, 0 for a label that is not asked; where all are 0
            (no prompt has a label) the rates stay as they are.
        trained: training rows per label.
    """
    if not any(drawn.values()):
        return rates
    weight_L = np.array([drawn[label] / trained[label] if trained.get(label) else 0.0 for label in map(str, LABELS)])
    p_NL = rates[list(PROBABILITIES)].to_numpy() * weight_L
    total_N = p_NL.sum(axis=1, keepdims=True)
    prior_L = np.array([drawn[label] for label in map(str, LABELS)]) / sum(drawn.values())
    p_NL = np.where(total_N > 0, p_NL / np.where(total_N > 0, total_N, 1.0), prior_L)  # a gene of undrawn labels only
    return rates.assign(**dict(zip(PROBABILITIES, p_NL.T, strict=True)))


def prompt_rates(items: pd.DataFrame, corpus: Corpus, drawn: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Return `item_id, p_up, p_down, p_none`: how often a gene shows each label among the prompts, in the item's line.

    The item itself counts. Of a gene with k_a rows of label a, drawn w_a times as often as they occur, the rate of a is
    r_a = k_a w_a / S with S = sum of k_b w_b. The mean of [label = a] - r_a over the gene's prompts is then 0,
    whichever a is answered. A rate without the item multiplies each term by S / (S - w), w being that of its own label:
    always answering a rare label would earn more than 0, and a frequent one less.

    A gene that the line has no training row of has the rate that the corpus forecasts. So has one of the sample, whose
    other rows are not there: without the item itself.

    Args:
        items: as in `reward_context`.
        corpus: as in `reward_context`.
        drawn: as in `shift_rates`; None for prompts that are the training rows as they come.
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
