"""The baselines: their formulas, what they may know, and that no test label and no own label reaches them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from full_corpus import full_corpus

from benchmarks import NeighbourModel
from benchmarks.evaluation.baselines import (
    BASELINES,
    Baseline,
    as_predictions,
    commoner_direction,
    copied_label,
    left_out,
    majority,
    perturbation_rate,
    predict_baselines,
)
from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES, check_predictions
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.report.collect import report_baselines
from benchmarks.screens.schema import CELL_LINES, LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
MakeLabels = Callable[[int], pd.DataFrame]
NAMES = [one.name for one in BASELINES]
SPLITS = ["official", "holdout:rpe1"]


@pytest.fixture(params=SPLITS)
def corpus(request: pytest.FixtureRequest, make_labels: MakeLabels) -> Corpus:
    split: str = request.param
    return Corpus("small", split, apply_split(make_labels(0), split))


def hand_made(rows: list[tuple[str, str, str, str, str]], split: str = "official") -> Corpus:
    frame = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label", "split"])
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return Corpus("small", split, frame.astype({"cell_line": LINE_DTYPE, "label": LABEL_DTYPE, "split": SPLIT_DTYPE}))


def shares(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    return frame[list(PROBABILITIES)].to_numpy(dtype=np.float64)


def test_every_baseline_is_a_whole_predictions_frame(corpus: Corpus) -> None:
    frames = predict_baselines(corpus, corpus.test)
    assert list(frames) == NAMES
    assert not left_out(corpus)
    for name, frame in frames.items():
        assert list(frame.columns) == COLUMNS
        check_predictions(frame, name)
        assert frame["item_id"].tolist() == corpus.test["item_id"].tolist()
        assert (frame["status"] == "answered").all()
        np.testing.assert_allclose(shares(frame).sum(axis=1), 1.0, atol=1e-9)
        assert (frame["answer"] == np.array(LABELS)[shares(frame).argmax(axis=1)]).all()


def test_a_new_baseline_is_one_entry_and_stands_in_the_report(
    make_labels: MakeLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONTRIBUTING's recipe, followed: a function and its entry."""

    def always_up(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
        return items[["item_id"]].reset_index(drop=True).assign(p_up=0.6, p_down=0.3, p_none=0.1)

    more = (*BASELINES[:1], Baseline("always up", always_up, needs_full_labels=True), *BASELINES[1:])
    monkeypatch.setattr("benchmarks.evaluation.baselines.BASELINES", more)
    assert "always up" in left_out(open_corpus("sample"))
    monkeypatch.setattr("benchmarks.report.page.draw", lambda panel, figure: "")  # slow, and no part of this
    page = report_baselines(Corpus("small", "official", make_labels(0)), tmp_path / "out", command="synthpert")
    systems = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["systems"]
    assert list(systems) == [one.name for one in more]
    assert systems["always up"]["metrics"]["three_class"]["all"]["accuracy"]["value"] is not None
    assert "always up" in page.read_text(encoding="utf-8")


def test_the_report_of_baselines_never_joins_a_run(make_labels: MakeLabels, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run, whose files a report would join; choose another folder"):
        report_baselines(Corpus("small", "official", make_labels(0)), tmp_path, command="synthpert")


def test_changing_the_test_labels_changes_no_forecast(corpus: Corpus) -> None:
    """In the split `holdout:rpe1` these are all labels of the line."""
    labels = corpus.labels.copy()
    is_test = labels["split"] == "test"
    turned = {UP: DOWN, DOWN: NONE, NONE: UP}
    labels.loc[is_test, "label"] = labels.loc[is_test, "label"].astype(str).map(turned)
    assert (labels.loc[is_test, "label"] != corpus.labels.loc[is_test, "label"]).all()
    other = Corpus("small", corpus.split, labels)
    before, after = (predict_baselines(one, one.test) for one in (corpus, other))
    for name in NAMES:
        assert (before[name]["label"] != after[name]["label"]).all()
        np.testing.assert_array_equal(shares(before[name]), shares(after[name]), err_msg=name)


def test_forecasts_do_not_need_the_other_test_items(corpus: Corpus) -> None:
    """Nothing is fitted on the items asked for: some of them have the forecast that they have among all."""
    alone = Corpus("small", corpus.split, corpus.train)
    items = corpus.test.sample(30, random_state=0)
    every, some = predict_baselines(corpus, corpus.test), predict_baselines(alone, items)
    for name in NAMES:
        expected = every[name].set_index("item_id").loc[items["item_id"]]
        np.testing.assert_allclose(shares(some[name]), shares(expected), atol=1e-12, err_msg=name)


def test_changing_training_labels_does_change_forecasts(make_labels: MakeLabels) -> None:
    """The tests above would pass on baselines that look at nothing."""
    corpus = Corpus("small", "official", make_labels(0))
    labels = corpus.labels.copy()
    labels.loc[labels["split"] == "train", "label"] = UP
    labels.loc[labels.index[labels["split"] == "train"][:3], "label"] = NONE
    other = Corpus("small", "official", labels)
    before = predict_baselines(corpus, corpus.test)
    for name, frame in _without_regression(other).items():
        assert np.abs(shares(before[name]) - shares(frame)).max() > 0.1, name


def _without_regression(corpus: Corpus) -> dict[str, pd.DataFrame]:
    regressions = ("neighbours + gene rate", "all shortcuts combined")  # too few labels are left for them
    forecasters = {one.name: one.forecast for one in BASELINES if one.name not in regressions}
    return {name: as_predictions(corpus.test, one(corpus, corpus.test)) for name, one in forecasters.items()}


def test_an_own_label_never_enters(make_labels: MakeLabels) -> None:
    """Training items are forecast without their own label; the regression's weights alone are learnt from all."""
    labels = make_labels(0)
    corpus = Corpus("small", "official", labels)
    for row in corpus.train.sample(6, random_state=0).index:
        item = labels.loc[[row]]
        for label in {UP, DOWN, NONE} - {str(labels.loc[row, "label"])}:
            flipped = labels.copy()
            flipped.loc[row, "label"] = label
            other = Corpus("small", "official", flipped)
            for forecast in (perturbation_rate, copied_label, Corpus.rates, Corpus.neighbour_forecast):
                before, after = shares(forecast(corpus, item)), shares(forecast(other, item))
                np.testing.assert_allclose(before, after, atol=1e-9)


def test_majority_and_prior_answer_alike_and_forecast_differently(make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    frames = predict_baselines(corpus, corpus.test)
    counts = corpus.train["label"].value_counts()
    majority, prior = frames["majority class"], frames["class prior"]
    assert set(majority["answer"]) == set(prior["answer"]) == {counts.idxmax()}
    np.testing.assert_allclose(shares(prior), [[counts[str(x)] / counts.sum() for x in LABELS]] * len(prior))
    np.testing.assert_array_equal(shares(majority), [[str(x) == counts.idxmax() for x in LABELS]] * len(prior))


def test_asked_for_the_direction_they_choose_between_up_and_down(corpus: Corpus) -> None:
    """The likelier of the two, the commoner in training where they are equal; the forecasts stay as they are."""
    items = corpus.test[corpus.test["label"] != NONE]
    every, directed = predict_baselines(corpus, items), predict_baselines(corpus, items, task="dir")
    counts = corpus.train["label"].value_counts()
    commoner = UP if counts[UP] >= counts[DOWN] else DOWN
    assert str(commoner_direction(corpus)) == commoner
    for name, frame in directed.items():
        check_predictions(frame, name)
        np.testing.assert_array_equal(shares(frame), shares(every[name]), err_msg=name)
        up, down, _ = shares(frame).T
        expected = np.where(up > down, UP, np.where(up < down, DOWN, commoner))
        assert (frame["answer"] == expected).all(), name
    assert set(directed["majority class"]["answer"]) == set(directed["class prior"]["answer"]) == {commoner}


def test_the_majority_of_directions_is_that_of_up_against_down() -> None:
    """Most training labels are no change, and down is commoner than up; H never changed in training."""
    more = [("jurkat", pert, "Z", label, "train") for pert, label in (("Q", DOWN), ("R", DOWN), ("S", NONE))]
    corpus = hand_made([*ROWS, *more])
    assert corpus.train["label"].value_counts().to_dict() == {NONE: 6, DOWN: 5, UP: 2}
    items = corpus.test[corpus.test["gene"] == "H"]
    for forecast in (majority, Corpus.rates, copied_label):
        table = forecast(corpus, items)
        assert as_predictions(items, table)["answer"].tolist() == [NONE]
        assert as_predictions(items, table, "dir", commoner_direction(corpus))["answer"].tolist() == [DOWN]


@pytest.mark.parametrize(
    ("shares_of_labels", "answers"),
    [
        ((0.3, 0.3, 0.4), {"three_class": NONE, "de": DOWN, "dir": DOWN}),
        ((0.35, 0.25, 0.4), {"three_class": NONE, "de": UP, "dir": UP}),
        ((0.1, 0.2, 0.7), {"three_class": NONE, "de": NONE, "dir": DOWN}),
        ((0.0, 0.0, 1.0), {"three_class": NONE, "de": NONE, "dir": DOWN}),
        ((0.6, 0.2, 0.2), {"three_class": UP, "de": UP, "dir": UP}),
    ],
)
def test_the_answer_is_the_likeliest_of_what_was_asked(
    shares_of_labels: tuple[float, float, float], answers: dict[str, str]
) -> None:
    items = hand_made(ROWS[:1]).test
    forecast = pd.DataFrame([shares_of_labels], columns=list(PROBABILITIES)).assign(item_id=items["item_id"].to_numpy())
    for task, answer in answers.items():
        assert as_predictions(items, forecast, task, LABELS[1])["answer"].tolist() == [answer]


ROWS = [
    ("k562", "P", "G", UP, "test"), ("k562", "P", "H", NONE, "test"), ("k562", "New", "G", NONE, "test"),
    ("k562", "Q", "G", DOWN, "train"), ("k562", "R", "G", DOWN, "train"), ("k562", "S", "G", NONE, "train"),
    ("k562", "Q", "H", NONE, "train"), ("k562", "P", "Mine", NONE, "train"),
    ("rpe1", "P", "G", UP, "train"), ("rpe1", "P", "X", UP, "train"), ("rpe1", "Q", "X", NONE, "train"),
    ("hepg2", "P", "G", DOWN, "train"), ("hepg2", "P", "Y", NONE, "test"), ("hepg2", "Q", "Y", NONE, "train"),
]  # fmt: skip


def test_the_perturbation_rate_counts_its_training_labels_in_the_other_lines() -> None:
    """P in RPE1 and HepG2: up, up, down. All labels there: up 2, down 1, none 2. Ten pseudo-counts."""
    corpus = hand_made(ROWS)
    found = shares(perturbation_rate(corpus, corpus.test.head(3)))
    elsewhere = np.array([2, 1, 2]) / 5
    known = (np.array([2, 1, 0]) + 10 * elsewhere) / 13
    np.testing.assert_allclose(found, [known, known, elsewhere])


def test_the_copied_label_is_that_of_the_same_pair_in_the_other_lines() -> None:
    """P on G is up in RPE1 and down in HepG2; in K562 G goes down twice of three times, which decides."""
    corpus = hand_made(ROWS)
    found = shares(copied_label(corpus, corpus.test.head(3)))
    rate = np.array([0, 2, 1]) / 3
    np.testing.assert_allclose(found[0], (np.array([1, 1, 0]) + 0.5 * rate) / 2.5)
    np.testing.assert_allclose(found[1], [0, 0, 1])
    np.testing.assert_allclose(found[2], rate)


@pytest.mark.parametrize("copied", [UP, DOWN, NONE])
def test_a_single_copy_outweighs_any_gene_rate(copied: str) -> None:
    for usual in (UP, DOWN, NONE):
        rows = [("k562", "P", "G", NONE, "test"), ("rpe1", "P", "G", copied, "train"), ("rpe1", "P", "X", UP, "train")]
        rows += [("k562", f"Q{i}", "G", usual, "train") for i in range(9)]
        corpus = hand_made(rows)
        assert as_predictions(corpus.test, copied_label(corpus, corpus.test))["answer"].tolist() == [copied]


def test_a_test_label_in_another_line_is_never_copied() -> None:
    corpus = hand_made([*ROWS, ("jurkat", "New", "G", UP, "test")])
    np.testing.assert_allclose(shares(copied_label(corpus, corpus.test.iloc[[2]])), [[0, 2 / 3, 1 / 3]])


def test_a_rehearsal_of_the_official_split_withholds_perturbations_per_line(make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    (rehearsal,) = corpus.rehearsals
    assert sorted(rehearsal.labels["item_id"]) == sorted(corpus.train["item_id"])
    pairs = rehearsal.labels[["cell_line", "pert", "split"]].drop_duplicates()
    assert not pairs.duplicated(["cell_line", "pert"]).any()
    for line in CELL_LINES:
        here = pairs[pairs["cell_line"] == line]
        assert (here["split"] == "test").sum() == -(-len(here) // 5)


def test_a_rehearsal_of_a_line_held_out_withholds_each_other_line(make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "holdout:rpe1", apply_split(make_labels(0), "holdout:rpe1"))
    tested = [set(rehearsal.test["cell_line"]) for rehearsal in corpus.rehearsals]
    assert tested == [{"k562"}, {"hepg2"}, {"jurkat"}]
    for rehearsal, line in zip(corpus.rehearsals, tested, strict=True):
        assert set(rehearsal.train["cell_line"]) == {"k562", "hepg2", "jurkat"} - line


def test_withheld_labels_of_one_kind_only_are_an_error() -> None:
    rows = [("k562", f"P{i}", "G", NONE, "train") for i in range(8)] + [("k562", "T", "G", UP, "test")]
    corpus = hand_made(rows)
    with pytest.raises(InputError, match="only one label"):
        predict_baselines(corpus, corpus.test)


def test_the_sample_has_what_it_carries_and_says_what_is_left_out() -> None:
    corpus = open_corpus("sample")
    frames = predict_baselines(corpus, corpus.test)
    assert list(frames) == [name for name in NAMES if name not in left_out(corpus)]
    assert list(left_out(corpus)) == [
        "perturbation rate in other lines", "label copied from other lines", "neighbours + gene rate",
        "all shortcuts combined",
    ]  # fmt: skip
    with pytest.raises(InputError, match="full training labels"):
        predict_baselines(corpus, corpus.test, "genes.csv")


MEASURED = {  # accuracy over all lines' official test items
    "majority class": 0.8603, "class prior": 0.8603, "gene rate": 0.9310, "perturbation rate in other lines": 0.8603,
    "label copied from other lines": 0.9385, "cross-line neighbours": 0.9487, "neighbours + gene rate": 0.9506,
    "all shortcuts combined": 0.9527,
}  # fmt: skip


@pytest.mark.slow  # all baselines on all labels
def test_accuracies_on_the_official_test_split_are_those_of_the_docs(
    full_frame: pd.DataFrame, full_neighbours: NeighbourModel
) -> None:
    corpus = full_corpus(full_frame, full_neighbours)
    frames = predict_baselines(corpus, corpus.test)
    found = {name: float((frame["answer"] == frame["label"]).mean()) for name, frame in frames.items()}
    assert found == pytest.approx(MEASURED, abs=0.001)
