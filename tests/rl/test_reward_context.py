"""The gene's rates that `margin` subtracts hold among the prompts, however their labels were drawn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from full_corpus import full_corpus

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError, compose
from rewards.verifiers import PROBABILITIES
from rl.reward_context import UNSEEN, label_counts, prompt_rates, reward_context, shift_rates, stand_in_context

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


def corpus_of(rows: list[tuple[str, str]]) -> Corpus:
    """A corpus of one line: a gene and a label a row, all training."""
    genes, labels = zip(*rows, strict=True)
    frame = pd.DataFrame({"cell_line": "k562", "pert": [f"P{at}" for at in range(len(rows))], "gene": genes})
    frame["item_id"] = frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"]
    return Corpus("here", "official", frame.assign(label=labels, split="train"))


SMALL = [("A", UP), ("A", DOWN), ("A", NONE), ("A", NONE), ("A", NONE), ("B", UP), ("B", NONE), ("C", DOWN)]


@pytest.mark.parametrize("balanced", [False, True])
def test_margin_pays_nothing_to_who_knows_the_rates_alone(balanced: bool) -> None:
    corpus = corpus_of(SMALL)
    train, counts = corpus.train, dict.fromkeys(NAMES, 1) if balanced else None
    margin = compose(["margin"], reward_context(train, corpus, folder=Path(), counts=counts))
    truth = train["label"].tolist()

    def earned(answers: list[str]) -> float:
        text = [f"<think>x</think><answer>{answer}</answer>" for answer in answers]
        scores = margin(completions=text, label=truth, item_id=train["item_id"].tolist())
        weight = 1 / train["label"].map(label_counts(train)) if balanced else None
        return float(np.average(np.array(scores, dtype=float), weights=weight))

    for answers in (*([name] * len(train) for name in NAMES), [NONE] * 5 + [UP] * 2 + [DOWN]):
        assert earned(answers) == pytest.approx(0, abs=1e-12)
    assert earned(truth) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_the_rates_of_the_full_labels_are_those_among_their_prompts(full_frame: pd.DataFrame, balanced: bool) -> None:
    corpus = full_corpus(full_frame)
    train, counts = corpus.train, dict.fromkeys(NAMES, 1) if balanced else label_counts(corpus.train)
    r_NL = prompt_rates(train, corpus, counts)[list(PROBABILITIES)].to_numpy()
    label_N = train["label"].astype(str).map(NAMES.index).to_numpy()
    gain_NL = np.eye(3)[label_N] - r_NL
    weight_N = np.array([counts[name] for name in NAMES])[label_N] / np.bincount(label_N)[label_N]
    assert np.average(gain_NL, axis=0, weights=weight_N) == pytest.approx([0, 0, 0], abs=1e-9)
    commonest_N = gain_NL[np.arange(len(train)), r_NL.argmax(axis=1)]
    assert np.average(commonest_N, weights=weight_N) == pytest.approx(0, abs=1e-9)


def test_a_rate_among_prompts_counts_the_item_and_the_forecast_of_that_name_does_not() -> None:
    corpus = corpus_of(SMALL)
    context = reward_context(corpus.train, corpus, folder=Path())
    assert context.prompt_rates is not None
    columns = list(PROBABILITIES)
    assert context.prompt_rates()[columns].to_numpy()[0] == pytest.approx([0.2, 0.2, 0.6])
    assert context.tables["gene_rate"]()[columns].to_numpy()[0] == pytest.approx([0, 0.25, 0.75])
    new = pd.DataFrame({"item_id": ["k562|X|A"], "cell_line": ["k562"], "pert": ["X"], "gene": ["A"]})
    assert prompt_rates(new, corpus)[columns].to_numpy()[0] == pytest.approx([0.2, 0.2, 0.6])
    first = {"completions": [f"<think>x</think><answer>{UP}</answer>"], "item_id": ["k562|P0|A"], "label": [UP]}
    soft = {"kind": "soft", "table": "gene_rate"}
    for parameters, score in (({}, 0.8), ({"rates": "gene_rate"}, 0.8), ({"verifier": soft}, 0.0)):
        assert compose([{"name": "margin", "parameters": parameters}], context)(**first) == [pytest.approx(score)]


def test_balanced_prompts_of_a_corpus_shift_its_rates() -> None:
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


def test_forecasts_for_the_unseen_are_tables_of_soft_verifiers(make_labels: Callable[[int], pd.DataFrame]) -> None:
    corpus = Corpus("here", "holdout:genes", apply_split(make_labels(0), "holdout:genes"))
    context = reward_context(corpus.test, corpus, folder=Path())
    for name, forecast in UNSEEN.items():
        entry = {"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "table": name}}}
        compose([entry], stand_in_context(Path()))
        if name == "transfer":
            with pytest.raises(InputError, match="no reference screen"):
                compose([entry], context)
            continue
        reward = compose([entry], context).components[0].reward
        told = forecast(corpus, corpus.test).iloc[0]
        (score,) = reward(["<think>x</think><answer>upregulated</answer>"], item_id=[told["item_id"]])
        assert score == pytest.approx(told["p_up"])
