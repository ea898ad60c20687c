"""The gene's rates that `margin` subtracts hold among the prompts, however their labels were drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.corpus import open_corpus
from benchmarks.prompts import PromptConfig
from benchmarks.reward_data import check_rows, reward_context, shift_rates
from rewards import LABELS
from rewards.functions import Margin
from rewards.verifiers import label_table

NAMES = [str(label) for label in LABELS]
UP, DOWN, NONE = NAMES


def rates_of(*rows: tuple[float, float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["p_up", "p_down", "p_none"])
    return frame.assign(item_id=[f"k562|P|G{row}" for row in range(len(rows))])


def test_rates_are_weighted_by_how_much_oftener_a_label_is_drawn() -> None:
    shifted = shift_rates(rates_of((0.1, 0.1, 0.8)), {UP: 1, DOWN: 1, NONE: 1}, {UP: 100, DOWN: 100, NONE: 800})
    assert shifted[["p_up", "p_down", "p_none"]].to_numpy() == pytest.approx(np.full((1, 3), 1 / 3))


def test_rates_of_prompts_drawn_as_they_come_stay() -> None:
    rates = rates_of((0.2, 0.3, 0.5), (0.0, 0.0, 1.0))
    shifted = shift_rates(rates, {UP: 10, DOWN: 20, NONE: 70}, {UP: 100, DOWN: 200, NONE: 700})
    pd.testing.assert_frame_equal(shifted, rates)


def test_a_label_that_is_not_asked_has_no_rate_and_without_labels_nothing_moves() -> None:
    rates = rates_of((0.1, 0.3, 0.6), (0.0, 0.0, 1.0))
    asked = shift_rates(rates, {UP: 5, DOWN: 15, NONE: 0}, {UP: 10, DOWN: 30, NONE: 60})
    assert asked["p_none"].tolist() == [0, 0]
    assert asked["p_up"].tolist() == pytest.approx([0.25, 0.25])  # the second gene never showed either: their shares
    pd.testing.assert_frame_equal(shift_rates(rates, dict.fromkeys(NAMES, 0), {UP: 1, DOWN: 1, NONE: 1}), rates)


def test_knowing_the_rates_alone_earns_nothing_on_balanced_prompts() -> None:
    """60,000 items of 300 genes with rates of their own, drawn so that each label is asked equally often."""
    rng = np.random.default_rng(0)
    gene_rates = rng.dirichlet((0.3, 0.4, 4.0), 300)
    gene_N = rng.integers(300, size=60_000)
    label_N = (rng.random(len(gene_N))[:, None] > gene_rates[gene_N].cumsum(axis=1)).sum(axis=1)
    trained = {name: int((label_N == at).sum()) for at, name in enumerate(NAMES)}
    drawn = np.concatenate([rng.choice(np.flatnonzero(label_N == at), 2000, replace=False) for at in range(3)])
    frame = rates_of(*gene_rates[gene_N[drawn]].tolist())
    shifted = shift_rates(frame, dict.fromkeys(NAMES, 2000), trained)
    truth = [NAMES[label] for label in label_N[drawn]]

    def earned(rates: pd.DataFrame, answers: list[str]) -> float:
        margin = Margin(label_table(rates, "rates"))
        completions = [f"<think>x</think><answer>{answer}</answer>" for answer in answers]
        return float(np.mean(margin(completions=completions, label=truth, item_id=frame["item_id"].tolist())))

    columns = ["p_up", "p_down", "p_none"]
    for answers in (
        *([name] * len(drawn) for name in NAMES),
        [NAMES[at] for at in shifted[columns].to_numpy().argmax(axis=1)],
        [NAMES[at] for at in shifted[columns].to_numpy().argmin(axis=1)],
    ):
        assert earned(shifted, answers) == pytest.approx(0, abs=0.03)
    assert earned(frame, [UP] * len(drawn)) > 0.1  # what the rates as they come would pay
    assert earned(shifted, truth) > 0.3


def test_balanced_prompts_of_a_corpus_shift_its_rates_and_its_commonest_labels() -> None:
    corpus = open_corpus("sample")
    balanced = dict.fromkeys(NAMES, 1)
    plain, shifted = (
        reward_context(corpus.train, corpus, folder=Path(), counts=counts).tables["gene_rate"]()
        for counts in (None, balanced)
    )
    ratio = (shifted["p_up"] / shifted["p_none"]) / (plain["p_up"] / plain["p_none"])
    labels = corpus.train["label"].astype(str)
    wanted = (labels == NONE).sum() / (labels == UP).sum()
    assert ratio[plain["p_up"].gt(0) & plain["p_none"].gt(0)].to_numpy() == pytest.approx(wanted)
    rows = corpus.train.head(300)
    columns = ["p_up", "p_down", "p_none"]
    for counts, rates in ((None, plain), (balanced, shifted)):
        commonest = rates[columns].to_numpy()[:300].argmax(axis=1)
        checked = check_rows(rows, corpus, PromptConfig(), counts)
        assert [NAMES.index(str(row.majority)) for row in checked] == commonest.tolist()
