"""A corpus gives the same rates, forecasts and evidence from the sample as from the full labels, and fair draws."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import NeighbourModel, fit_neighbours
from benchmarks.evidence.corpus import Corpus, draw_items, open_corpus
from benchmarks.screens.labels import data_dir, load_labels
from benchmarks.screens.sample import EVIDENCE_PER_ITEM
from benchmarks.screens.schema import CELL_LINES
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError

MakeLabels = Callable[[int], pd.DataFrame]


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture
def small(make_labels: MakeLabels) -> Corpus:
    return Corpus("small", "official", make_labels(0))


def test_train_and_test_part_the_labels(sample: Corpus, small: Corpus) -> None:
    for corpus in (sample, small):
        assert len(corpus.train) + len(corpus.test) == len(corpus.labels)
        assert set(corpus.train["split"]) == {"train"}
        assert set(corpus.test["split"]) == {"test"}
    assert sample.is_sample
    assert not small.is_sample


@pytest.mark.slow
def test_the_sample_says_what_the_full_labels_say(
    sample: Corpus, full_frame: pd.DataFrame, full_neighbours: NeighbourModel
) -> None:
    items = sample.labels.sample(frac=1.0, random_state=0)
    rates, forecast = sample.rates(items), sample.neighbour_forecast(items)
    columns = ["p_up", "p_down", "p_none"]
    for carried, computed in (
        (rates, full_neighbours.rates(items)),
        (forecast, full_neighbours.predict(items)[columns].to_numpy()),
    ):
        assert list(carried.columns) == ["item_id", *columns]
        assert carried["item_id"].tolist() == items["item_id"].tolist()
        assert np.abs(carried[columns].to_numpy() - computed).max() <= 1e-4 + 1e-9
    quoted, nearest = sample.evidence(items, 3), full_neighbours.evidence(items, 3)
    assert list(quoted.columns) == list(nearest.columns)
    shared = ["item_id", "rank", "pert", "label"]
    assert quoted[shared].to_numpy().tolist() == nearest[shared].to_numpy().tolist()
    assert Corpus("full", "official", full_frame).train_counts == sample.train_counts


def test_a_corpus_of_labels_asks_the_neighbour_model_of_its_training_rows(small: Corpus) -> None:
    model, items = fit_neighbours(small.train), small.labels
    pd.testing.assert_frame_equal(small.neighbour_forecast(items), model.predict(items))
    pd.testing.assert_frame_equal(small.evidence(items, 2), model.evidence(items, 2))
    rates = small.rates(items)
    assert rates["item_id"].tolist() == items["item_id"].tolist()
    np.testing.assert_allclose(rates[["p_up", "p_down", "p_none"]].to_numpy(), model.rates(items))


def test_train_counts_are_those_of_the_training_rows(small: Corpus) -> None:
    assert small.train_counts == {label: int((small.train["label"] == str(label)).sum()) for label in LABELS}


def test_a_label_without_training_rows_counts_0(small: Corpus) -> None:
    labels = small.labels[small.labels["label"] != str(LABELS[0])]
    assert Corpus("small", "official", labels).train_counts[LABELS[0]] == 0


def test_evidence_in_the_sample_ends_at_what_it_carries(sample: Corpus) -> None:
    items = sample.test.head(5)
    assert sample.evidence(items, EVIDENCE_PER_ITEM)["rank"].max() == EVIDENCE_PER_ITEM
    with pytest.raises(InputError, match=rf"carries \({EVIDENCE_PER_ITEM}\)"):
        sample.evidence(items, EVIDENCE_PER_ITEM + 1)


@pytest.mark.parametrize("k", [0, -1])
def test_evidence_of_less_than_one_is_refused_by_both(sample: Corpus, small: Corpus, k: int) -> None:
    for corpus in (sample, small):
        with pytest.raises(InputError, match="at least 1"):
            corpus.evidence(corpus.test.head(2), k)


def test_items_that_are_not_in_the_sample_are_refused(sample: Corpus) -> None:
    items = sample.test.head(1).assign(item_id="k562|NOT|THERE")
    for ask in (sample.rates, sample.neighbour_forecast, lambda rows: sample.evidence(rows, 1)):
        with pytest.raises(InputError, match=r"k562\|NOT\|THERE: not among the sample"):
            ask(items)


def test_the_sample_has_the_official_split_only() -> None:
    with pytest.raises(InputError, match="official split only"):
        open_corpus("sample", "holdout:rpe1")


@pytest.mark.parametrize("source", ["sample", "no_such_folder"])
def test_an_unknown_split_is_named_before_the_labels_are_looked_for(source: str) -> None:
    with pytest.raises(
        InputError, match="split: 'offical' is unknown; use official, holdout:LINE, holdout:perturbations"
    ):
        open_corpus(source, "offical")


def test_the_environment_may_name_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHPERT_DATA", "sample")
    monkeypatch.chdir(tmp_path)
    assert open_corpus().is_sample
    assert len(load_labels()) == len(load_labels("sample"))
    assert data_dir().is_absolute()  # `data fetch` fills no folder called `sample`
    with pytest.raises(InputError, match="no such folder"):
        open_corpus(tmp_path / "none")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_corpus(tmp_path / "none")
    with pytest.raises(InputError, match=r"sampel: no such folder; did you mean `sample`\?"):
        open_corpus("sampel")


def test_open_the_full_labels_with_a_line_held_out(full_labels: Path) -> None:
    corpus = open_corpus(full_labels, "holdout:rpe1")
    assert set(corpus.test["cell_line"]) == {"rpe1"}
    assert set(corpus.train["cell_line"]) == set(CELL_LINES) - {"rpe1"}
    assert corpus.split == "holdout:rpe1"


def test_the_digest_tells_splits_apart(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    held = Corpus("small", "holdout:k562", apply_split(labels, "holdout:k562"))
    assert Corpus("small", "official", labels).digest != held.digest
    assert Corpus("elsewhere", "official", labels).digest == Corpus("small", "official", labels).digest


# --- drawing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [False, True])
def test_the_same_seed_draws_the_same_items(small: Corpus, balance: bool) -> None:
    first, again, other = (draw_items(small.train, 30, seed=seed, balance=balance) for seed in (5, 5, 6))
    assert first["item_id"].tolist() == again["item_id"].tolist()
    assert first["item_id"].tolist() != other["item_id"].tolist()
    assert len(first) == 30
    assert first["item_id"].is_unique
    assert set(first["item_id"]) <= set(small.train["item_id"])


def test_a_draw_of_0_takes_all_in_another_order(small: Corpus) -> None:
    drawn = draw_items(small.train, 0, seed=1, balance=False)
    assert sorted(drawn["item_id"]) == sorted(small.train["item_id"])
    assert drawn["item_id"].tolist() != small.train["item_id"].tolist()


@pytest.mark.parametrize(("n", "counts"), [(30, [10, 10, 10]), (31, [11, 10, 10]), (32, [11, 11, 10]), (2, [1, 1, 0])])
def test_a_balanced_draw_has_each_label_equally_often(small: Corpus, n: int, counts: list[int]) -> None:
    drawn = draw_items(small.train, n, seed=0, balance=True)
    assert [int((drawn["label"] == str(label)).sum()) for label in LABELS] == counts


def test_a_balanced_draw_of_0_takes_as_many_as_the_rarest_label_allows(small: Corpus) -> None:
    drawn = draw_items(small.train, 0, seed=0, balance=True)
    rarest = min(small.train_counts.values())
    assert [int((drawn["label"] == str(label)).sum()) for label in LABELS] == [rarest] * 3


def test_a_balanced_draw_mixes_its_labels(small: Corpus) -> None:
    labels = draw_items(small.train, 30, seed=0, balance=True)["label"].astype(str).tolist()
    assert labels != sorted(labels)
    assert len(set(labels[:10])) == 3


def test_a_balanced_draw_of_two_labels_has_these_two(small: Corpus) -> None:
    directed = small.train[small.train["label"] != str(LABELS[-1])]
    drawn = draw_items(directed, 20, seed=0, balance=True)
    assert [int((drawn["label"] == str(label)).sum()) for label in LABELS] == [10, 10, 0]


def test_more_items_than_there_are_is_refused(small: Corpus) -> None:
    n, balanced = len(small.train), 3 * min(small.train_counts.values())
    with pytest.raises(InputError, match=f"^rows: {n + 1}, but there are only {n}; ask for {n} at most$"):
        draw_items(small.train, n + 1, seed=0, balance=False, key="rows")
    with pytest.raises(InputError, match=f"; ask for {balanced} at most, or set balance: false$"):
        draw_items(small.train, balanced + 3, seed=0, balance=True)
    assert len(draw_items(small.train, balanced, seed=0, balance=True)) == balanced


@pytest.mark.parametrize("balance", [False, True])
def test_a_negative_number_of_items_is_refused(small: Corpus, balance: bool) -> None:
    with pytest.raises(InputError, match="-1"):
        draw_items(small.train, -1, seed=0, balance=balance)


def test_rates_are_those_of_the_whole_neighbour_model(make_labels: Callable[[int], pd.DataFrame]) -> None:
    labels = make_labels(0)
    light, whole = Corpus("small", "official", labels), Corpus("small", "official", labels)
    whole.neighbour_forecast(labels)
    pd.testing.assert_frame_equal(light.rates(labels), whole.rates(labels), check_exact=True)
    assert "_neighbours" not in light.__dict__  # the costly part was not needed
