"""Strata: every item in one of each kind, the same as a plain reading of the training labels."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from full_corpus import full_corpus

from benchmarks import NeighbourModel
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.report.strata import TRAINED, WITH_EFFECT, strata
from rewards import InputError, Label

RATE = "gene response rate"


def corpus_of(labels: pd.DataFrame) -> Corpus:
    return Corpus("made", "official", labels)


def test_trained_elsewhere_is_about_other_lines_of_the_training_split(
    make_labels: Callable[[int], pd.DataFrame],
) -> None:
    corpus = corpus_of(make_labels(0))
    items = corpus.labels
    found = strata(corpus, items)
    pairs = set(zip(corpus.train["cell_line"].astype(str), corpus.train["pert"], strict=True))
    for row in items.itertuples():
        expected = any(pert == row.pert and line != row.cell_line for line, pert in pairs)
        assert found[TRAINED[0]][row.item_id] == expected, row.item_id
        assert found[TRAINED[1]][row.item_id] == (not expected)
    # `Psolo` is trained in its own line alone.
    assert found[TRAINED[1]]["rpe1|Psolo|G0"]
    assert found[TRAINED[0]].any()


def test_rate_strata_follow_the_training_labels(make_labels: Callable[[int], pd.DataFrame]) -> None:
    corpus = corpus_of(make_labels(1))
    items = corpus.test
    found = {name: mask for name, mask in strata(corpus, items).items() if name.startswith(RATE)}
    low, middle, high = found.values()
    train = corpus.train
    responds = (train["label"] != str(Label.NONE)).groupby([train["cell_line"], train["gene"]], observed=True).mean()
    rate = pd.Series(
        [responds.get((row.cell_line, row.gene), np.nan) for row in items.itertuples()], index=items["item_id"]
    )
    known = rate.notna()
    assert rate[low & known].max() < rate[middle & known].min() <= rate[middle & known].max()
    assert rate[middle & known].max() < rate[high & known].min()
    # Ties go down, so the lower ones hold at least their share.
    assert low.sum() >= len(items) / 3
    assert low.sum() + middle.sum() >= 2 * len(items) / 3 - 1
    for first, second in zip([low, middle], [middle, high], strict=True):
        assert not set(rate[first]) & set(rate[second])
    cut = 100 * rate[low & known].max()
    assert f"low (at most {cut:.3g} %)" in next(iter(found))


def test_every_item_is_in_one_of_each_kind_whatever_the_order(make_labels: Callable[[int], pd.DataFrame]) -> None:
    corpus = corpus_of(make_labels(2))
    items = corpus.test
    found = strata(corpus, items)
    by_rate = pd.DataFrame({name: mask for name, mask in found.items() if name.startswith(RATE)})
    by_pert = pd.DataFrame({name: mask for name, mask in found.items() if not name.startswith(RATE)})
    assert (by_rate.sum(axis=1) == 1).all()
    assert (by_pert.sum(axis=1) == 1).all()
    assert list(by_rate.index) == list(items["item_id"])
    shuffled = strata(corpus, items.sample(frac=1, random_state=0))
    assert list(shuffled) == list(found)
    for name, mask in found.items():
        pd.testing.assert_series_equal(shuffled[name].reindex(mask.index), mask)


def labels_with_rates(rates: list[float]) -> pd.DataFrame:
    """One line; gene i has ten training rows, `rates[i]` of them up, and one test row; another line trains P0 only."""
    rows = []
    for g, rate in enumerate(rates):
        for p in range(10):
            label = Label.UP if p < round(10 * rate) else Label.NONE
            rows.append(("k562", f"P{p}", f"G{g}", str(label), "train"))
        rows.append(("k562", "T", f"G{g}", str(Label.NONE), "test"))
    rows.append(("rpe1", "P0", "G0", str(Label.NONE), "train"))
    frame = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label", "split"])
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return frame


@pytest.mark.parametrize(
    ("rates", "sizes"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], {"low (at most 20 %)": 2, "middle (above 20 %, at most 40 %)": 2,
                                          "high (above 40 %)": 2}),
        # Two in three never respond: they stay together, and the others are halved.
        ([0, 0, 0, 0, 0.3, 0.5], {"low (0 %)": 4, "middle (above 0 %, at most 30 %)": 1, "high (above 30 %)": 1}),
        ([0.2, 0.2, 0.2], {"low (at most 20 %)": 3}),
        ([0.2, 0.2, 0.2, 0.7], {"low (at most 20 %)": 3, "middle (above 20 %, at most 70 %)": 1}),
        ([0.5], {"low (at most 50 %)": 1}),
    ],
)  # fmt: skip
def test_cut_points_by_hand(rates: list[float], sizes: dict[str, int]) -> None:
    corpus = corpus_of(labels_with_rates(rates))
    found = strata(corpus, corpus.test)
    by_rate = {name.removeprefix(f"{RATE}: "): int(mask.sum()) for name, mask in found.items() if RATE in name}
    assert by_rate == sizes
    assert TRAINED[0] not in found  # T is trained nowhere: no empty stratum
    assert found[TRAINED[1]].all()


def test_an_items_own_label_does_not_count() -> None:
    labels = labels_with_rates([0.1, 0.5, 0.9])
    corpus = corpus_of(labels)
    own = labels[labels["item_id"] == "k562|P0|G0"]
    # The only response of G0 is this very item.
    assert list(strata(corpus, own))[-1] == f"{RATE}: low (0 %)"


def test_trained_here_and_elsewhere() -> None:
    corpus = corpus_of(labels_with_rates([0.1, 0.5]))
    items = corpus.labels[corpus.labels["item_id"].isin(["k562|P0|G0", "k562|P1|G0", "rpe1|P0|G0"])]
    found = strata(corpus, items)[TRAINED[0]]
    assert found.to_dict() == {"k562|P0|G0": True, "k562|P1|G0": False, "rpe1|P0|G0": True}


def test_sample_says_what_it_can_tell(full_frame: pd.DataFrame) -> None:
    sample, full = open_corpus("sample"), full_corpus(full_frame)
    items = sample.labels
    found = strata(sample, items)
    assert not set(TRAINED) & set(found)
    train = full.train[full.train["label"] != str(Label.NONE)]
    pairs = set(zip(train["cell_line"].astype(str), train["pert"], strict=True))
    lines = {line for line, _ in pairs}
    expected = [
        any((line, row.pert) in pairs for line in lines - {str(row.cell_line)}) for row in items.itertuples()
    ]  # fmt: skip
    assert found[WITH_EFFECT[0]].tolist() == expected


def test_sample_without_full_labels() -> None:
    corpus = open_corpus("sample")
    found = strata(corpus, corpus.test)
    has_evidence = corpus.test["evidence"].map(len).to_numpy() > 0
    assert 0 < has_evidence.sum() < len(has_evidence)
    assert (found[WITH_EFFECT[0]].to_numpy() == has_evidence).all()
    assert (found[WITH_EFFECT[1]].to_numpy() == ~has_evidence).all()
    assert sum(int(mask.sum()) for name, mask in found.items() if RATE in name) == len(corpus.test)


@pytest.mark.slow
def test_official_split(full_frame: pd.DataFrame, full_neighbours: NeighbourModel) -> None:
    corpus = full_corpus(full_frame, full_neighbours)
    found = strata(corpus, corpus.test)
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        TRAINED[0]: 104_699,
        TRAINED[1]: 11_342,
        f"{RATE}: low (0 %)": 80_252,
        f"{RATE}: middle (above 0 %, at most 32.4 %)": 17_920,
        f"{RATE}: high (above 32.4 %)": 17_869,
    }


def test_no_items_and_foreign_items(make_labels: Callable[[int], pd.DataFrame]) -> None:
    corpus = corpus_of(make_labels(0))
    with pytest.raises(InputError, match="no items"):
        strata(corpus, corpus.test.head(0))
    with pytest.raises(InputError, match="not among the sample's rows"):
        strata(open_corpus("sample"), corpus.test)
