"""Rows of the check: items with their prompts, and what exploits and the honest policy know about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus, draw_items
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from rewards import LABELS, Label
from rewards.batch import prompt_text
from rewards.verifiers import PROBABILITIES
from rl.reward_context import prompt_rates

SEED: Final = 0


@dataclass(frozen=True)
class Row:
    """One item that completions are made for.

    Attributes:
        item_id, cell_line, pert, gene: of the item.
        label: the true one.
        prompt: the question as text.
        majority: the gene's most frequent label in training.
        rarest: its least frequent one.
        confidence: what the honest policy states, as text; empty if no reward asks for it.
        think: what the honest policy writes as its reasoning about the item.
        other: what it writes about another item.
        labelled: whether a reward gets the label. If not, it gets an empty one, as for an unlabelled pair.
    """

    item_id: str
    cell_line: str
    pert: str
    gene: str
    label: Label
    prompt: str
    majority: Label
    rarest: Label
    confidence: str = ""
    think: str = field(default="", repr=False)
    other: str = field(default="", repr=False)
    labelled: bool = True


def check_rows(
    items: pd.DataFrame, corpus: Corpus, prompt: PromptConfig, counts: Mapping[str, int] | None = None
) -> list[Row]:
    """Return items as the check of a reward takes them, with the prompts that a model would see.

    Args:
        items: as in `rl.reward_context.reward_context`.
        corpus: as in `reward_context`.
        prompt: how the prompts are made.
        counts: rows per label among the prompts; None if the prompts are the training rows as they come.
    """
    p_NL = prompt_rates(items, corpus, counts)[list(PROBABILITIES)].to_numpy()
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


def draw_checked(train: pd.DataFrame, rows: int, *, balance: bool) -> tuple[pd.DataFrame, list[float]]:
    """Draw rows for the exploits, equally many of each label if there are enough, and weigh them as the prompts are.

    Args:
        train: training rows.
        rows: how many to draw at most.
        balance: whether the prompts have each label equally often. If not, labels are as frequent as in `train`.

    Returns:
        The rows, and a weight for each. A rare label is drawn more often than it occurs, so that its rows weigh less.
    """
    labels = [str(label) for label in LABELS if (train["label"] == str(label)).any()]
    available = train["label"].astype(str).value_counts()
    drawn = [
        draw_items(train[train["label"] == label], min(-(-rows // len(labels)), int(available[label])), seed=SEED,
                   balance=False)
        for label in labels
    ]  # fmt: skip
    frame = pd.concat(drawn)
    share = {label: 1.0 if balance else float(available[label]) for label in labels}
    weight = [share[label] / len(part) for label, part in zip(labels, drawn, strict=True) for _ in range(len(part))]
    return frame, weight
