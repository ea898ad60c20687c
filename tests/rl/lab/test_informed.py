"""Two policies that know as much show what a reward makes of accuracy."""

from pathlib import Path

import pandas as pd
import pytest
from full_corpus import full_corpus

from benchmarks import NeighbourModel
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards.compose import compose
from rl.lab.check import check_rewards
from rl.lab.informed import Informed, informed_policies
from rl.lab.rows import check_rows
from rl.reward_context import reward_context


@pytest.fixture(scope="module")
def corpus(full_frame: pd.DataFrame, full_neighbours: NeighbourModel) -> Corpus:
    return full_corpus(full_frame, full_neighbours)


def policies(corpus: Corpus, names: list[str]) -> tuple[Informed, Informed]:
    items = corpus.train.sample(400, random_state=0)
    composition = compose(names, reward_context(corpus.train, corpus, folder=Path()))
    rows = check_rows(items, corpus, PromptConfig())
    check = check_rewards(composition, rows)
    return informed_policies(composition, check, rows, corpus, weight=[1.0] * len(rows))


@pytest.mark.slow
def test_margin_alone_pays_more_for_being_right_less_often(corpus: Corpus) -> None:
    likeliest, surprising = policies(corpus, ["margin"])
    assert likeliest.accuracy > 0.9
    assert surprising.accuracy < 0.3
    assert surprising.mean > likeliest.mean


@pytest.mark.slow
def test_accuracy_pays_for_being_right(corpus: Corpus) -> None:
    likeliest, surprising = policies(corpus, ["accuracy"])
    assert likeliest.mean == pytest.approx(likeliest.accuracy)
    assert surprising.mean == pytest.approx(surprising.accuracy)
    assert likeliest.mean > surprising.mean
