"""Metrics against scikit-learn, worked cases, and a brute-force reading of their definitions."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (  # type: ignore[import-untyped]
    balanced_accuracy_score,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)

from benchmarks.metrics import METRICS, TASK_METRICS, estimate, per_gene_auroc, placements, task_of
from benchmarks.prediction_arrays import NO_ANSWER, NONE, PROBABILITIES, prediction_arrays
from rewards import LABELS, InputError

NAMES = [str(label) for label in LABELS]


def predictions(n: int = 240, seed: int = 0, *, missing: float = 0.15, error: float = 0.05) -> pd.DataFrame:
    """Random but skilled predictions, some without an answer, some failed; scores are coarse, so that they tie."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, size=n, p=[0.2, 0.2, 0.6])
    logits = rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[label]
    prob = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1)
    prob[:, NONE] = 1 - prob[:, 0] - prob[:, 1]
    prob = np.clip(prob, 0, 1)
    draw = rng.random(n)
    status = np.select(
        [draw < error, draw < error + missing / 2, draw < error + missing],
        ["error", "malformed", "incomplete"],
        "answered",
    )
    answered = status == "answered"
    answer = np.array(NAMES, dtype=object)[logits.argmax(axis=1)]
    answer[~answered] = None
    prob[~answered] = np.nan
    frame = pd.DataFrame(
        {
            "cell_line": rng.choice(["k562", "rpe1"], size=n),
            "pert": [f"P{i}" for i in rng.integers(0, 12, size=n)],
            "gene": [f"G{i}" for i in rng.integers(0, 15, size=n)],
            "label": np.array(NAMES)[label],
            "answer": answer,
            "status": status,
            **dict(zip(PROBABILITIES, prob.T, strict=True)),
        }
    )
    frame["item_id"] = [f"{row.cell_line}|{row.pert}|{row.gene}" for row in frame.itertuples()]
    return frame.drop_duplicates("item_id", ignore_index=True)


# Rows (gene, label, score) and expected values worked by hand: ties, single-class genes, single positives.
WORKED = [
    ("G1", 1, 0.5), ("G1", 0, 0.5), ("G1", 0, 0.2), ("G1", 1, 0.1), ("G2", 1, 0.9), ("G2", 0, 0.9), ("G3", 0, 0.4),
    ("G3", 0, 0.6), ("G4", 1, 0.7), ("G4", 0, 0.1), ("G4", 0, 0.3), ("G4", 0, 0.7), ("G5", 1, 0.2),
]  # fmt: skip


class TestPerGeneAuroc:
    def test_worked_case(self) -> None:
        gene, label, score = zip(*WORKED, strict=True)
        assert per_gene_auroc(label, score, gene) == pytest.approx((0.375 + 0.5 + 5 / 6) / 3, abs=1e-12)

    @given(
        st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 5)), min_size=2, max_size=60),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=60, deadline=None)
    def test_equals_the_loop_over_genes_in_any_order(self, rows: list[tuple[int, bool, int]], random: object) -> None:
        frame = pd.DataFrame(rows, columns=["gene", "label", "score"])
        per_gene = [
            roc_auc_score(group["label"], group["score"])
            for _, group in frame.groupby("gene")
            if group["label"].nunique() == 2
        ]
        if not per_gene:
            with pytest.raises(InputError, match="no gene has items of both classes"):
                per_gene_auroc(frame["label"], frame["score"], frame["gene"])
            return
        shuffled = frame.sample(frac=1, random_state=random.randint(0, 2**31))  # type: ignore[attr-defined]
        found = per_gene_auroc(shuffled["label"], shuffled["score"], shuffled["gene"])
        assert found == pytest.approx(np.mean(per_gene), abs=1e-12)

    def test_monotone_scores_and_reversal(self) -> None:
        rng = np.random.default_rng(1)
        label, score, gene = rng.integers(0, 2, 300), rng.normal(size=300), rng.integers(0, 20, 300)
        value = per_gene_auroc(label, score, gene)
        assert per_gene_auroc(label, np.exp(score), gene) == pytest.approx(value, abs=1e-12)
        assert per_gene_auroc(label, -score, gene) == pytest.approx(1 - value, abs=1e-12)

    def test_more_genes_than_16_bits(self) -> None:
        gene = np.repeat(np.arange(70_000), 2)
        label = np.tile([0, 1], 70_000)
        score = np.where(gene < 35_000, label, 1 - label)
        assert per_gene_auroc(label, score, gene) == 0.5

    @pytest.mark.parametrize(
        ("label", "score", "gene", "message"),
        [
            ([0, 1], [0.1, np.nan], ["a", "a"], "score of row 1 is missing"),
            ([0, 1], [0.1, 0.2], ["a", None], "gene of row 1 is missing"),
            ([0, 1], [0.1], ["a", "a"], "differ; pass one each"),
            ([0, 1, 2], [0.1, 0.2, 0.3], ["a", "a", "a"], "label of row 2 is .*2.*; use 0 and 1"),
            ([0, np.nan], [0.1, 0.2], ["a", "a"], "label of row 1"),
            (["no", "yes"], [0.1, 0.2], ["a", "a"], "label of row 0"),
            ([0, 1], ["0.1", "0.2"], ["a", "a"], "not numbers"),
            ([0, 1], [0.1, 0.2], ["a", "b"], "no gene has items of both classes"),
            ([], [], [], "no gene has items of both classes"),
        ],
    )
    def test_bad_input(self, label: list[Any], score: list[Any], gene: list[Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            per_gene_auroc(label, score, np.array(gene, dtype=object))

    def test_is_fast_on_all_official_test_rows(self) -> None:
        rng = np.random.default_rng(0)
        n = 116_041
        label, score = rng.integers(0, 2, n), rng.random(n).round(3)
        gene = pd.Series(rng.integers(0, 9_000, n)).astype(str)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            per_gene_auroc(label, score, gene)
            seconds.append(time.perf_counter() - start)
        # 25 ms on a 2-core machine; a loop over genes takes more than ten seconds.
        assert min(seconds) < 0.5


class TestAgainstScikitLearn:
    @pytest.fixture(params=[0, 1, 2])
    def frame(self, request: pytest.FixtureRequest) -> pd.DataFrame:
        return predictions(seed=request.param)

    @pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # "no answer" is one
    def test_confusion_metrics(self, frame: pd.DataFrame) -> None:
        scored = frame[frame["status"] != "error"]
        true, answered = scored["label"], scored["answer"].fillna("no answer")
        arrays = prediction_arrays(frame)
        expected = {
            "accuracy": (true == answered).mean(),
            "balanced_accuracy": balanced_accuracy_score(true, answered),
            "macro_f1": f1_score(true, answered, labels=NAMES, average="macro", zero_division=0),
            "mcc": matthews_corrcoef(true, answered),
        }
        for metric, value in expected.items():
            found = estimate(arrays, "three_class", metric)
            assert found.value == pytest.approx(value, abs=1e-12), metric
            assert len(found.rows) == len(scored)

    def test_worked_confusion_matrix(self) -> None:
        confusion = [[50, 6, 4], [5, 12, 3], [7, 2, 11]]
        rows = [(i, j) for i in range(3) for j in range(3) for _ in range(confusion[i][j])]
        arrays = prediction_arrays(answers(rows))
        assert estimate(arrays, "three_class", "mcc").value == pytest.approx(0.511299319, abs=1e-9)
        assert estimate(arrays, "three_class", "macro_f1").value == pytest.approx(0.6662065, abs=1e-7)
        assert estimate(arrays, "three_class", "accuracy").value == pytest.approx(0.73, abs=1e-12)

    def test_pooled_and_per_gene_auroc(self, frame: pd.DataFrame) -> None:
        # Without missing scores scikit-learn's definition is ours.
        frame = frame[frame["status"] == "answered"].reset_index(drop=True)
        arrays = prediction_arrays(frame)
        changed = frame["label"] != NAMES[NONE]
        score = 1 - frame["p_none"].to_numpy()
        assert estimate(arrays, "de", "de_auroc").value == pytest.approx(roc_auc_score(changed, score), abs=1e-12)
        unit = frame["cell_line"] + "|" + frame["gene"]
        found = estimate(arrays, "de", "de_per_gene_auroc")
        assert found.value == pytest.approx(per_gene_auroc(changed, score, unit), abs=1e-12)
        classes = changed.groupby(unit).nunique()
        assert (found.n_genes, found.n_genes_left_out) == ((classes == 2).sum(), (classes == 1).sum())
        direction = frame[changed & (frame["p_up"] + frame["p_down"] > 0)]
        share = direction["p_up"] / (direction["p_up"] + direction["p_down"])
        only = prediction_arrays(direction)
        expected = roc_auc_score(direction["label"] == "upregulated", share)
        assert estimate(only, "dir", "dir_auroc").value == pytest.approx(expected, abs=1e-12)

    def test_absent_class_counts_as_zero(self) -> None:
        arrays = prediction_arrays(answers([(0, 0), (0, 0), (2, 2), (2, 0)]))
        expected = f1_score(
            ["u", "u", "n", "n"], ["u", "u", "n", "u"], labels=["u", "d", "n"], average="macro", zero_division=0
        )
        assert estimate(arrays, "three_class", "macro_f1").value == pytest.approx(expected, abs=1e-12)
        assert estimate(arrays, "three_class", "balanced_accuracy").value == pytest.approx((1 + 0 + 0.5) / 3)

    def test_constant_answer(self) -> None:
        arrays = prediction_arrays(answers([(0, 2), (1, 2), (2, 2), (2, 2)]))
        assert estimate(arrays, "three_class", "mcc").value == 0
        assert estimate(arrays, "three_class", "balanced_accuracy").value == pytest.approx(1 / 3)


def answers(rows: Sequence[tuple[int, int | None]], **columns: Any) -> pd.DataFrame:
    """Items with a true and an answered label each (None for no answer), every one its own perturbation."""
    frame = pd.DataFrame(
        {
            "item_id": [f"k562|P{i}|G{i % 3}" for i in range(len(rows))],
            "cell_line": "k562",
            "pert": [f"P{i}" for i in range(len(rows))],
            "gene": [f"G{i % 3}" for i in range(len(rows))],
            "label": [NAMES[true] for true, _ in rows],
            "answer": [None if given is None else NAMES[given] for _, given in rows],
            "status": ["malformed" if given is None else "answered" for _, given in rows],
        }
    )
    return frame.assign(**columns)


def scored(label: list[int], p_none: list[float | None]) -> pd.DataFrame:
    """Items of one gene with a probability of no change each; None for an item without an answer."""
    frame = answers([(true, None if p is None else NONE) for true, p in zip(label, p_none, strict=True)], gene="G")
    frame["p_none"] = [np.nan if p is None else p for p in p_none]
    frame["p_up"] = frame["p_down"] = (1 - frame["p_none"]) / 2
    return frame


class TestMissing:
    def test_no_answer_is_wrong_and_error_is_left_out(self) -> None:
        frame = answers([(0, 0), (1, None), (2, 2), (2, 2)])
        frame.loc[3, ["answer", "status"]] = [None, "error"]
        found = estimate(prediction_arrays(frame), "three_class", "accuracy")
        assert found.value == pytest.approx(2 / 3)
        assert list(found.rows) == [0, 1, 2]

    def test_no_answer_is_wrong_in_the_binary_task_whatever_the_label(self) -> None:
        found = estimate(prediction_arrays(answers([(0, 1), (2, 2), (2, None), (1, None)])), "de", "accuracy")
        assert found.value == 0.5

    def test_item_without_score_is_half_in_every_pair(self) -> None:
        label, p_none = [0, 1, 2, 2, 2], [0.1, None, 0.5, None, 0.05]
        found = estimate(prediction_arrays(scored(label, p_none)), "de", "de_auroc")
        # Positives .9 and none; negatives .5, none, .95: pairs 1, 1/2, 0 and three halves.
        assert found.value == pytest.approx((1 + 0.5 + 0 + 3 * 0.5) / 6, abs=1e-12)
        per_gene = estimate(prediction_arrays(scored(label, p_none)), "de", "de_per_gene_auroc")
        assert per_gene.value == pytest.approx(found.value, abs=1e-12)

    def test_brier_takes_the_uniform_forecast(self) -> None:
        found = estimate(prediction_arrays(scored([2, 2], [1.0, None])), "three_class", "brier")
        assert found.value == pytest.approx((0 + 2 / 3) / 2, abs=1e-12)

    @pytest.mark.parametrize("metric", ["brier", "de_auroc", "de_per_gene_auroc", "dir_auroc", "dir_per_gene_auroc"])
    def test_system_without_any_score_has_no_value(self, metric: str) -> None:
        arrays = prediction_arrays(answers([(0, 0), (1, 1), (2, 2), (0, 1), (1, 0), (2, None)]))
        found = estimate(arrays, task_of(metric), metric)
        assert np.isnan(found.value)
        assert found.reason

    def test_one_class_only(self) -> None:
        arrays = prediction_arrays(scored([2, 2, 2], [0.1, 0.2, 0.3]))
        assert estimate(arrays, "de", "de_auroc").reason == "needs differentially expressed items and others"
        assert estimate(arrays, "dir", "dir_auroc").reason == "no item to score"
        assert estimate(arrays, "three_class", "brier").value > 0

    def test_direction_score_of_zero_mass_is_no_score(self) -> None:
        frame = scored([0, 1, 0], [1.0, 0.0, 0.0])
        frame.loc[1:, ["p_up", "p_down"]] = [[0.2, 0.8], [0.9, 0.1]]
        # Up: none and .9; down .2: pairs 1/2 and 1.
        assert estimate(prediction_arrays(frame), "dir", "dir_auroc").value == pytest.approx(0.75, abs=1e-12)


class TestSamplesAndRuns:
    def test_majority_vote_and_mean_probability(self) -> None:
        votes = [0, 0, 1, None]
        frames = [
            answers([(0, vote), (2, 2)], sample=i, p_up=np.nan, p_down=np.nan, p_none=np.nan)
            for i, vote in enumerate(votes)
        ]
        for i, frame in enumerate(frames):
            if votes[i] is not None:
                frame.loc[0, ["p_up", "p_down", "p_none"]] = [[0.2, 0.8, 0.0], [0.4, 0.4, 0.2], [0.0, 0.9, 0.1]][i]
        arrays = prediction_arrays(pd.concat(frames))
        assert list(arrays.answer[0]) == [0, 2]
        assert arrays.prob[0, 0] == pytest.approx([0.2, 0.7, 0.1])

    def test_tie_goes_to_the_higher_mean_probability_then_to_label_order(self) -> None:
        rows = [answers([(0, vote), (0, vote)], sample=i) for i, vote in enumerate([1, 0])]
        for frame, p in zip(rows, ([0.1, 0.8, 0.1], [0.5, 0.4, 0.1]), strict=True):
            frame[list(PROBABILITIES)] = [p, [0.4, 0.4, 0.2]]
        assert list(prediction_arrays(pd.concat(rows)).answer[0]) == [1, 0]

    def test_failed_samples_do_not_count_while_others_answer(self) -> None:
        first, second = answers([(0, 0), (1, 1)], sample=0), answers([(0, None), (1, None)], sample=1, status="error")
        arrays = prediction_arrays(pd.concat([first, second]))
        assert arrays.scorable.all()
        assert list(arrays.answer[0]) == [0, 1]

    def test_value_is_the_mean_over_runs(self) -> None:
        runs = pd.concat([answers([(0, 0), (1, 1)], seed=4), answers([(0, 0), (1, 0)], seed=9)])
        found = estimate(prediction_arrays(runs), "three_class", "accuracy")
        assert list(found.values) == [1.0, 0.5]
        assert found.value == 0.75
        assert prediction_arrays(runs).seeds == (4, 9)

    def test_no_answer_at_all(self) -> None:
        assert list(prediction_arrays(answers([(0, None)])).answer[0]) == [NO_ANSWER]


class TestInfluence:
    @pytest.mark.parametrize(("task", "metric"), [(task, m) for task, ms in TASK_METRICS.items() for m in ms])
    def test_sums_to_zero_and_does_not_depend_on_row_order(self, task: str, metric: str) -> None:
        frame = predictions(seed=3)
        found = estimate(prediction_arrays(frame), task, metric)
        assert found.psi.sum() == pytest.approx(0, abs=1e-12)
        assert found.psi_gene.sum() == pytest.approx(0, abs=1e-12)
        shuffled = frame.sample(frac=1, random_state=1, ignore_index=True)
        again = estimate(prediction_arrays(shuffled), task, metric)
        assert again.value == pytest.approx(found.value, abs=1e-12)
        by_item = pd.Series(found.psi, index=frame["item_id"].iloc[found.rows])
        by_item_again = pd.Series(again.psi, index=shuffled["item_id"].iloc[again.rows])
        assert by_item_again.reindex(by_item.index).to_numpy() == pytest.approx(by_item.to_numpy(), abs=1e-12)

    @pytest.mark.parametrize(
        ("task", "metric"), [(task, m) for task, ms in TASK_METRICS.items() for m in ms if "per_gene" not in m]
    )
    def test_is_the_first_order_effect_of_leaving_an_item_out(self, task: str, metric: str) -> None:
        arrays = prediction_arrays(predictions(n=600, seed=5))
        found = estimate(arrays, task, metric)
        for at in range(0, len(found.rows), 37):
            use = np.ones(len(arrays.label), dtype=np.bool_)
            use[found.rows[at]] = False
            moved = estimate(arrays, task, metric, use).value - found.value
            assert -found.psi[at] == pytest.approx(moved, abs=0.03 / len(found.rows))

    def test_gene_term_is_each_genes_share_of_the_mean(self) -> None:
        frame = predictions(seed=6, error=0)
        arrays = prediction_arrays(frame)
        found = estimate(arrays, "de", "de_per_gene_auroc")
        assert found.n_genes is not None
        unit = (frame["cell_line"] + "|" + frame["gene"]).iloc[found.rows].to_numpy()
        total = pd.Series(found.psi_gene).groupby(unit).sum()
        for name in total.index:
            own = np.asarray((frame["cell_line"] + "|" + frame["gene"]) == name)
            a_gene = estimate(arrays, "de", "de_auroc", own).value
            assert total[name] == pytest.approx((a_gene - found.value) / found.n_genes, abs=1e-12)

    def test_placements_worked(self) -> None:
        positive = np.array([True, True, False, False, False])
        placement, auroc = placements(positive, np.array([0.9, 0.2, 0.2, 0.1, 0.95]), np.zeros(5, dtype=np.intp), 1)
        assert placement == pytest.approx([2 / 3, 0.5, 0.75, 1.0, 0.0])
        assert auroc == pytest.approx([(2 / 3 + 0.5) / 2])


class TestBadFrames:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"answer": ["Upregulated", "downregulated"]}, "row 0 .*answer 'Upregulated' is unknown"),
            ({"label": ["up", "downregulated"]}, "row 0 .*label 'up' is unknown"),
            ({"label": [None, "downregulated"]}, "row 0 .*label is missing"),
            ({"status": ["answered", "ok"]}, "row 1 .*status 'ok' is unknown"),
            ({"status": ["answered", "malformed"]}, "row 1 .*answer must be set exactly where"),
            ({"answer": ["upregulated", None]}, "row 1 .*answer must be set exactly where"),
            ({"gene": ["G0", None]}, "row 1 .*gene is missing"),
            ({"item_id": ["a", None]}, "row 1 .*item_id is missing"),
            ({"item_id": ["a", "a"]}, "row 1 .*occurs twice"),
            ({"item_id": ["a", "a"], "sample": [0, 1]}, "row 1 .*another label in an earlier row"),
            ({"item_id": ["a", "a"], "sample": [0, 1], "label": "upregulated"}, "row 1 .*another pert"),
            ({"seed": [0, 1]}, "seed 0 lacks item 'k562.P1.G1'"),
            ({"sample": [0.5, 1]}, "sample is float64, not whole numbers"),
            ({"p_up": 0.5}, "p_up without all of"),
            ({"p_up": 0.5, "p_down": 0.4, "p_none": [0.1, 0.2]}, "row 1 .*is not 1"),
            ({"p_up": 1.5, "p_down": -0.5, "p_none": 0.0}, "row 0 .*not within 0 to 1"),
            ({"p_up": [0.5, np.inf], "p_down": 0.4, "p_none": 0.1}, "row 1 .*not within 0 to 1"),
            ({"p_up": [0.5, np.nan], "p_down": 0.4, "p_none": 0.1}, "row 1 .*some of p_up, p_down, p_none are NaN"),
        ],
    )
    def test_names_row_and_problem(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            prediction_arrays(answers([(0, 0), (1, 1)], **change), "run.parquet")

    def test_probabilities_without_answer(self) -> None:
        with pytest.raises(InputError, match=r"row 1 .*probabilities without an answer"):
            prediction_arrays(answers([(0, 0), (1, None)], p_up=0.5, p_down=0.4, p_none=0.1))

    def test_missing_column_and_empty_frame(self) -> None:
        with pytest.raises(InputError, match="no column status"):
            prediction_arrays(answers([(0, 0)]).drop(columns="status"))
        with pytest.raises(InputError, match="no rows"):
            prediction_arrays(answers([(0, 0)]).iloc[:0])

    def test_unknown_metric(self) -> None:
        with pytest.raises(InputError, match="'auroc' is unknown"):
            task_of("auroc")
        with pytest.raises(InputError, match="dir/accuracy is unknown"):
            estimate(prediction_arrays(answers([(0, 0)])), "dir", "accuracy")

    def test_every_metric_has_one_task(self) -> None:
        assert {metric: task_of(metric) for metric in METRICS}["accuracy"] == "three_class"
        assert len(METRICS) == 9


def test_categories_and_enum_labels_are_read() -> None:
    frame = answers([(0, 0), (1, None), (2, 2)])
    plain = prediction_arrays(frame)
    typed = prediction_arrays(
        frame.assign(
            label=pd.Categorical(frame["label"], categories=NAMES),
            answer=pd.Series([LABELS[0], None, LABELS[2]], dtype=object),
            status=frame["status"].astype("category"),
            cell_line=frame["cell_line"].astype("category"),
        )
    )
    assert list(typed.answer[0]) == list(plain.answer[0]) == [0, NO_ANSWER, 2]
    assert list(typed.label) == list(plain.label)
