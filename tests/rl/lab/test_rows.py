"""Rows of the check know their gene's commonest and rarest label among the prompts."""

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import LABELS
from rl.lab.rows import check_rows
from rl.reward_context import prompt_rates

UP, DOWN, NONE = map(str, LABELS)


def test_the_commonest_label_counts_the_item_itself() -> None:
    frame = pd.DataFrame(
        {"cell_line": "k562", "pert": ["P0", "P1", "P2", "P3"], "gene": ["A", "A", "A", "C"],
         "label": [UP, NONE, NONE, DOWN], "split": "train"}
    )  # fmt: skip
    frame["item_id"] = frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"]
    corpus = Corpus("here", "official", frame)
    rows = check_rows(corpus.train, corpus, PromptConfig())
    assert [row.majority for row in rows] == [NONE, NONE, NONE, DOWN]  # the last is the only row of its gene
    assert rows[0].rarest == DOWN
    assert [row.label for row in rows] == [UP, NONE, NONE, DOWN]
    assert all(row.pert in row.prompt and row.gene in row.prompt for row in rows)


@pytest.mark.parametrize("counts", [None, dict.fromkeys((UP, DOWN, NONE), 1)])
def test_the_commonest_label_is_that_among_the_prompts(counts: dict[str, int] | None) -> None:
    corpus = open_corpus("sample")
    items = corpus.train.head(300)
    rates = prompt_rates(items, corpus, counts)[["p_up", "p_down", "p_none"]].to_numpy()
    rows = check_rows(items, corpus, PromptConfig(), counts)
    assert [LABELS.index(row.majority) for row in rows] == rates.argmax(axis=1).tolist()
    assert [LABELS.index(row.rarest) for row in rows] == rates.argmin(axis=1).tolist()
