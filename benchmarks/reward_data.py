"""What rewards need to know of the data: class counts, named forecasts, and rows for the check of a reward."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from benchmarks.corpus import Corpus
from benchmarks.prompts import PromptConfig, build_prompts
from rewards import LABELS, Label
from rewards.batch import prompt_text
from rewards.compose import Context
from rewards.exploits import Row

TABLES = ("neighbours", "gene_rate")


def reward_context(
    items: pd.DataFrame, corpus: Corpus, *, folder: Path, counts: Mapping[str, int] | None = None
) -> Context:
    """Return what rewards are made with.

    Args:
        items: the rows that will be scored, with `item_id`, `cell_line`, `pert`, `gene`, `label`; each item may recur.
        corpus: whose training labels the tables `neighbours` and `gene_rate` come from, made when a reward asks.
        folder: of the configuration: files that it names are relative to it.
        counts: rows per label, for `balanced_accuracy`; those of the items by default.
    """
    once = items.drop_duplicates("item_id")
    if counts is None:
        counts = {str(label): int((once["label"].astype(str) == str(label)).sum()) for label in LABELS}
    return Context(
        train_counts=counts,
        tables={"neighbours": lambda: corpus.neighbour_forecast(once), "gene_rate": lambda: corpus.rates(once)},
        folder=folder,
    )


def check_rows(items: pd.DataFrame, corpus: Corpus, prompt: PromptConfig) -> list[Row]:
    """Return items as the check of a reward takes them, with the prompts that a model would see."""
    rates = corpus.rates(items)
    p_NL = rates[["p_up", "p_down", "p_none"]].to_numpy()
    prompts = build_prompts(items, corpus, prompt)
    rows = []
    for at, row in enumerate(items[["item_id", "cell_line", "pert", "gene", "label"]].astype(str).itertuples()):
        rows.append(
            Row(
                item_id=str(row.item_id),
                cell_line=str(row.cell_line),
                pert=str(row.pert),
                gene=str(row.gene),
                label=Label(str(row.label)),
                prompt=prompt_text(prompts[at]),
                majority=LABELS[int(p_NL[at].argmax())],
                rarest=LABELS[int(p_NL[at].argmin())],
            )
        )
    return rows
