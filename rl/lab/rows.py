"""Rows of the check: items with their prompts and what exploits and an honest policy know of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from rewards import LABELS, Label
from rewards.batch import prompt_text
from rewards.verifiers import PROBABILITIES
from rl.reward_context import prompt_rates


@dataclass(frozen=True)
class Row:
    """One item that completions are made for.

    Attributes:
        item_id, cell_line, pert, gene: of the item.
        label: the true one.
        prompt: the question as text.
        majority: the gene's most frequent label in training.
        rarest: its least frequent one.
        confidence: what an honest policy states, as text; empty where the reward does not ask for it.
        facts: what an honest policy says for the rewards that are checked, beside its reasoning.
        phrases: that these rewards look for.
        other: the reasoning of another item.
        labelled: whether a reward is given the label; otherwise it gets an empty one, as for an unlabelled pair.
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
    facts: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
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
        counts: rows per label among the prompts; None where these are the training rows as they come.
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
