"""Metrics against scikit-learn, worked cases, and a brute-force reading of their definitions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazily import Lazy
from without_clock import UNHURRIED, count_steps

from benchmarks.statistics.areas import average_precision, per_gene_auroc, placements
from benchmarks.statistics.arrays import NO_ANSWER, NONE, PROBABILITIES, prediction_arrays
from benchmarks.statistics.curves import MAX_ROC_POINTS, reliability, roc_points
from benchmarks.statistics.metrics import METRICS, compared_metrics, estimate, find_metric, metric_names, metrics_of
from benchmarks.statistics.reliability import expected_calibration_error, reliability_bins
from rewards import LABELS, InputError

sk = Lazy("sklearn.metrics")

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
    @settings(UNHURRIED, max_examples=60)
    def test_equals_the_loop_over_genes_in_any_order(self, rows: list[tuple[int, bool, int]], random: object) -> None:
        frame = pd.DataFrame(rows, columns=["gene", "label", "score"])
        per_gene = [
            sk.roc_auc_score(group["label"], group["score"])
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
            (pd.array([True, None], "boolean"), [0.1, 0.2], ["a", "a"], "label of row 1 is missing"),
            (pd.array([1, None], "Int64"), [0.1, 0.2], ["a", "a"], "label of row 1 is missing"),
            ([0, 1], pd.array([0.1, None], "Float64"), ["a", "a"], "score of row 1 is missing"),
            (["no", "yes"], [0.1, 0.2], ["a", "a"], "label of row 0"),
            ([0, 1], ["0.1", "0.2"], ["a", "a"], "not numbers"),
            ([0, 1], [0.1, 0.2], ["a", "b"], "no gene has items of both classes"),
            ([], [], [], "no gene has items of both classes"),
        ],
    )
    def test_bad_input(self, label: list[Any], score: list[Any], gene: list[Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            per_gene_auroc(label, score, np.array(gene, dtype=object))

    def test_columns_that_could_hold_missing_values(self) -> None:
        label, score = pd.array([True, False, True], "boolean"), pd.array([0.3, 0.2, 0.1], "Float64")
        assert per_gene_auroc(label, score, pd.Series(["a"] * 3, dtype="string")) == 0.5
        assert per_gene_auroc(np.array(label), np.array(score, dtype=object), ["a"] * 3) == 0.5

    def test_no_loop_in_python_goes_over_genes_or_rows(self) -> None:
        """It would take ten seconds."""

        def steps(rows: int, genes: int) -> int:
            rng = np.random.default_rng(0)
            label, score = rng.integers(0, 2, rows), rng.random(rows).round(3)
            gene = pd.Series(rng.integers(0, genes, rows)).astype(str)
            return count_steps(lambda: per_gene_auroc(label, score, gene))

        assert steps(116_041, 9_000) < 1.2 * steps(100, 8)


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
            "balanced_accuracy": sk.balanced_accuracy_score(true, answered),
            "macro_f1": sk.f1_score(true, answered, labels=NAMES, average="macro", zero_division=0),
            "mcc": sk.matthews_corrcoef(true, answered),
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
        score = (1 - frame["p_none"].to_numpy()).round(12)
        assert estimate(arrays, "de", "de_auroc").value == pytest.approx(sk.roc_auc_score(changed, score), abs=1e-12)
        unit = frame["cell_line"] + "|" + frame["gene"]
        found = estimate(arrays, "de", "de_per_gene_auroc")
        assert found.value == pytest.approx(per_gene_auroc(changed, score, unit), abs=1e-12)
        classes = changed.groupby(unit).nunique()
        assert (found.n_units, found.n_units_left_out) == ((classes == 2).sum(), (classes == 1).sum())
        by_pert = per_gene_auroc(changed, score, frame["cell_line"] + "|" + frame["pert"])
        assert estimate(arrays, "de", "de_per_perturbation_auroc").value == pytest.approx(by_pert, abs=1e-12)
        direction = frame[changed & (frame["p_up"] + frame["p_down"] > 0)]
        share = direction["p_up"] / (direction["p_up"] + direction["p_down"])
        only = prediction_arrays(direction)
        expected = sk.roc_auc_score(direction["label"] == "upregulated", share.round(12))
        assert estimate(only, "dir", "dir_auroc").value == pytest.approx(expected, abs=1e-12)

    def test_absent_class_counts_as_zero(self) -> None:
        arrays = prediction_arrays(answers([(0, 0), (0, 0), (2, 2), (2, 0)]))
        expected = sk.f1_score(
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

    @pytest.mark.parametrize(
        "metric",
        ["brier", "ece", *(f"{t}_{m}" for t in ("de", "dir") for m in ("auroc", "auprc", "per_gene_auroc"))],
    )
    def test_system_without_any_score_has_no_value(self, metric: str) -> None:
        arrays = prediction_arrays(answers([(0, 0), (1, 1), (2, 2), (0, 1), (1, 0), (2, None)]))
        found = estimate(arrays, find_metric(metric).task, metric)
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


class TestDirection:
    def test_worked_case(self) -> None:
        """Up: one of three right; down: two of two. An unchanged item does not count, whatever the answer."""
        arrays = prediction_arrays(answers([(0, 0), (0, 2), (0, None), (1, 1), (1, 1), (2, 0), (2, 2)]))
        accuracy, balanced = (estimate(arrays, "dir", name) for name in ("dir_accuracy", "dir_balanced_accuracy"))
        assert accuracy.value == pytest.approx(3 / 5, abs=1e-12)
        assert balanced.value == pytest.approx((1 / 3 + 1) / 2, abs=1e-12)
        assert len(accuracy.rows) == len(balanced.rows) == 5

    @pytest.mark.parametrize("seed", [0, 1])
    def test_balanced_accuracy_is_the_mean_of_two_recalls(self, seed: int) -> None:
        frame = predictions(seed=seed)
        arrays = prediction_arrays(frame)
        recalls = [estimate(arrays, "three_class", name) for name in ("recall_up", "recall_down")]
        found = estimate(arrays, "dir", "dir_balanced_accuracy")
        assert found.value == pytest.approx(np.mean([one.value for one in recalls]), abs=1e-12)
        psi = np.zeros(len(arrays.label))
        for one in recalls:
            psi[one.rows] += one.psi / 2
        assert psi[found.rows] == pytest.approx(found.psi, abs=1e-12)

    def test_needs_both_labels_to_balance(self) -> None:
        arrays = prediction_arrays(answers([(0, 0), (0, 1), (2, 2)]))
        assert estimate(arrays, "dir", "dir_balanced_accuracy").reason == "needs items up and down"
        assert estimate(arrays, "dir", "dir_accuracy").value == 0.5

    @pytest.mark.parametrize("constant", [0, 1])
    def test_no_constant_answer_beats_the_chance_lines(self, constant: int) -> None:
        labels = [0, 0, 0, 1, 2, 2, 2, 2]
        arrays = prediction_arrays(answers([(label, constant) for label in labels]))
        shares = {str(label): labels.count(at) / len(labels) for at, label in enumerate(LABELS)}
        for name, expected in (("dir_accuracy", 0.75), ("dir_balanced_accuracy", 0.5)):
            chance = find_metric(name).chance
            assert chance is not None
            assert chance[0](shares) == expected
            assert estimate(arrays, "dir", name).value <= expected

    def test_its_accuracy_stands_only_where_the_direction_alone_was_asked(self) -> None:
        names = [one.name for one in metrics_of("dir")]
        assert names == [one.name for one in metrics_of("dir", asked="three_class")]
        assert [one.name for one in metrics_of("dir", asked="dir")] == ["dir_accuracy", "dir_balanced_accuracy", *names]
        assert not metrics_of("de", asked="dir") and not metrics_of("three_class", asked="dir")
        assert {find_metric(name).task for name in compared_metrics(asked="dir")} == {"dir"}


class TestRecallAndPrecision:
    @pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
    @pytest.mark.parametrize("seed", [0, 1])
    def test_scikit_learn(self, seed: int) -> None:
        frame = predictions(seed=seed)
        scored = frame[frame["status"] != "error"]
        true, answered = scored["label"], scored["answer"].fillna("no answer")
        recall = sk.recall_score(true, answered, labels=NAMES, average=None)
        precision = sk.precision_score(true, answered, labels=NAMES, average=None)
        arrays = prediction_arrays(frame)
        for name, short, expected_recall, expected_precision in zip(
            NAMES, ("up", "down", "none"), recall, precision, strict=True
        ):
            found = estimate(arrays, "three_class", f"recall_{short}")
            assert found.value == pytest.approx(expected_recall, abs=1e-12)
            assert len(found.rows) == (true == name).sum()
            assert estimate(arrays, "three_class", f"precision_{short}").value == pytest.approx(
                expected_precision, abs=1e-12
            )

    def test_no_answer_lowers_recall_and_leaves_precision(self) -> None:
        arrays = prediction_arrays(answers([(0, 0), (0, None), (1, 0), (1, 1), (2, 2)]))
        assert estimate(arrays, "three_class", "recall_up").value == 0.5
        assert estimate(arrays, "three_class", "precision_up").value == 0.5
        assert estimate(arrays, "three_class", "precision_down").value == 1

    def test_zero_by_zero_has_no_value_and_a_reason(self) -> None:
        arrays = prediction_arrays(answers([(0, 0), (0, 2), (2, 2), (2, 1)]))
        recall = estimate(arrays, "three_class", "recall_down")
        assert np.isnan(recall.value)
        assert recall.reason == "no item is labelled downregulated"
        # Answered, never rightly: that is a precision of 0, not an unknown one.
        assert estimate(arrays, "three_class", "precision_down").value == 0
        silent = estimate(prediction_arrays(answers([(0, 0), (1, 0)])), "three_class", "precision_down")
        assert silent.reason == "the answer downregulated is never given"
        assert np.isnan(silent.value)

    def test_run_that_never_gives_an_answer_is_named(self) -> None:
        runs = pd.concat([answers([(0, 0), (1, 1)], seed=4), answers([(0, 0), (1, 0)], seed=9)])
        found = estimate(prediction_arrays(runs), "three_class", "precision_down")
        assert found.reason == "the answer downregulated is never given in training run 9"
        assert estimate(prediction_arrays(runs), "three_class", "recall_down").value == 0.5

    def test_within_a_mask(self) -> None:
        arrays = prediction_arrays(answers([(0, 0), (0, 1), (1, 1), (1, 0)]))
        use = np.array([True, False, True, True])
        assert estimate(arrays, "three_class", "recall_up", use).value == 1
        assert estimate(arrays, "three_class", "precision_up", use).value == 0.5


class TestAveragePrecision:
    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=50))
    @settings(UNHURRIED, max_examples=80)
    def test_scikit_learn_with_ties(self, rows: list[tuple[bool, int]]) -> None:
        positive, score = np.array([p for p, _ in rows]), np.array([s for _, s in rows], dtype=np.float64)
        if positive.all() or not positive.any():
            return
        value, psi = average_precision(positive, score)
        assert value == pytest.approx(sk.average_precision_score(positive, score), abs=1e-12)
        assert psi.sum() == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize("seed", range(4))
    def test_influence_is_the_derivative_in_the_items_weight(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        positive = rng.random(60) < 0.3
        score = np.round(rng.normal(size=60) + positive, 1)
        _, psi = average_precision(positive, score)
        step = 1e-5
        for item in range(60):
            weight = np.ones(60)
            weight[item] += step
            above = sk.average_precision_score(positive, score, sample_weight=weight)
            weight[item] -= 2 * step
            below = sk.average_precision_score(positive, score, sample_weight=weight)
            assert psi[item] == pytest.approx((above - below) / (2 * step), abs=1e-8)

    def test_item_without_score_ranks_below_all_others(self) -> None:
        label, p_none = [0, 1, 2, 2, 2, 0], [0.1, None, 0.5, None, 0.05, 0.2]
        found = estimate(prediction_arrays(scored(label, p_none)), "de", "de_auprc")
        score = [0.9, -1, 0.5, -1, 0.95, 0.8]
        assert found.value == pytest.approx(sk.average_precision_score([1, 1, 0, 0, 0, 1], score), abs=1e-12)

    def test_losing_scores_at_random_moves_towards_chance(self) -> None:
        rng = np.random.default_rng(0)
        positive = rng.random(20_000) < 0.1
        score = rng.normal(size=20_000) + 1.5 * positive
        full, _ = average_precision(positive, score)
        score[rng.random(20_000) < 0.5] = np.nan
        half, _ = average_precision(positive, score)
        assert half == pytest.approx((full + 0.1) / 2, abs=0.02)

    def test_mean_over_runs_and_direction(self) -> None:
        frames = [predictions(seed=seed, missing=0, error=0) for seed in (3, 3)]
        frames[1][["p_up", "p_down"]] = frames[1][["p_down", "p_up"]].to_numpy()
        arrays = prediction_arrays(pd.concat([frame.assign(seed=i) for i, frame in enumerate(frames)]))
        found = estimate(arrays, "dir", "dir_auprc")
        changed = frames[0][frames[0]["label"] != NAMES[NONE]]
        changed = changed.assign(either=changed["p_up"] + changed["p_down"])
        share = np.where(changed["either"] > 0, changed["p_up"] / changed["either"].where(changed["either"] > 0), -1)
        other = np.where(changed["either"] > 0, 1 - share, -1)
        up = changed["label"] == NAMES[0]
        expected = [sk.average_precision_score(up, np.round(one, 12)) for one in (share, other)]
        assert list(found.values) == pytest.approx(expected, abs=1e-9)


class TestCalibration:
    def test_decimal_edges_belong_to_the_lower_bin(self) -> None:
        # 1 - 0.2 and 0.1 + 0.2 lie a rounding error off 0.8 and 0.3.
        bins = reliability_bins([1 - 0.2, 0.1 + 0.2, 0.8, 0.3, 0.80001, 1.0, 0.0], [1, 0, 1, 0, 1, 1, 0])
        assert [one.n for one in bins] == [1, 0, 2, 0, 0, 0, 0, 2, 1, 1]
        assert [(one.low, one.high) for one in bins[:2]] == [(0.0, 0.1), (0.1, 0.2)]
        assert np.isnan(bins[1].accuracy)

    def test_ece_of_a_system_by_hand(self) -> None:
        frame = answers([(0, 0), (0, 0), (1, 0), (2, 2)])
        frame[list(PROBABILITIES)] = [[0.75, 0.25, 0], [0.75, 0.25, 0], [0.75, 0.25, 0], [0.1, 0.35, 0.55]]
        arrays = prediction_arrays(frame)
        found = estimate(arrays, "three_class", "ece")
        assert found.value == pytest.approx((3 * abs(2 / 3 - 0.75) + 0.45) / 4, abs=1e-12)
        assert found.no_interval == "no interval: ECE is biased upwards in small samples"
        assert not found.psi.any()
        assert expected_calibration_error(reliability(arrays)) == pytest.approx(found.value, abs=1e-12)
        within = estimate(arrays, "three_class", "ece", np.array([False, False, False, True]))
        assert within.value == pytest.approx(0.45, abs=1e-12)

    def test_items_without_score_are_left_out(self) -> None:
        arrays = prediction_arrays(scored([2, 2, 2, 0], [1.0, 0.8, None, None]))
        assert estimate(arrays, "three_class", "ece").value == pytest.approx(0.1, abs=1e-12)
        assert sum(one.n for one in reliability(arrays)) == 2

    def test_runs_are_pooled_in_the_bins_and_averaged_in_the_value(self) -> None:
        one, other = scored([2, 2], [1.0, 1.0]), scored([2, 2], [1.0, 0.75])
        arrays = prediction_arrays(pd.concat([one.assign(seed=1), other.assign(seed=2)]))
        assert list(estimate(arrays, "three_class", "ece").values) == pytest.approx([0, 0.125])
        assert [one.n for one in reliability(arrays)] == [0, 0, 0, 0, 0, 0, 0, 1, 0, 3]

    def test_calibrated_forecasts_approach_0_and_wrong_ones_do_not(self) -> None:
        rng = np.random.default_rng(0)
        confidence = rng.uniform(1 / 3, 1, 50_000)
        right = rng.random(50_000) < confidence
        assert expected_calibration_error(reliability_bins(confidence, right)) < 0.01
        assert expected_calibration_error(reliability_bins(confidence, ~right)) > 0.3

    def test_no_scores_no_bins(self) -> None:
        assert reliability(prediction_arrays(answers([(0, 0), (2, 1)]))) == []


class TestRocPoints:
    @pytest.mark.parametrize("task", ["de", "dir"])
    def test_corners_of_scikit_learns_curve(self, task: str) -> None:
        frame = predictions(n=120, seed=2, missing=0, error=0)
        frame = frame[(frame["p_up"] + frame["p_down"] > 0)].reset_index(drop=True)
        points = roc_points(prediction_arrays(frame), task)
        use = frame if task == "de" else frame[frame["label"] != NAMES[NONE]]
        positive = use["label"] != NAMES[NONE] if task == "de" else use["label"] == NAMES[0]
        score = 1 - use["p_none"] if task == "de" else use["p_up"] / (use["p_up"] + use["p_down"])
        false, true, _ = sk.roc_curve(positive, score.round(12), drop_intermediate=False)
        assert np.array(points) == pytest.approx(np.c_[false, true], abs=1e-12)

    @pytest.mark.parametrize("task", ["de", "dir"])
    @pytest.mark.parametrize("n_runs", [1, 3])
    @pytest.mark.parametrize("missing", [0.0, 0.3])
    def test_area_is_the_auroc(self, task: str, n_runs: int, missing: float) -> None:
        frame = predictions(n=200, seed=1, missing=missing)
        others = [frame.copy() for _ in range(n_runs)]
        for seed, other in enumerate(others):
            answered = (other["status"] == "answered").to_numpy()
            values = other.loc[answered, list(PROBABILITIES)].sample(frac=0.5, random_state=seed)
            other.loc[values.index, list(PROBABILITIES)] = values.to_numpy()[::-1]
        arrays = prediction_arrays(pd.concat([other.assign(seed=i) for i, other in enumerate(others)]))
        points = np.array(roc_points(arrays, task))
        assert sk.auc(points[:, 0], points[:, 1]) == pytest.approx(
            estimate(arrays, task, f"{task}_auroc").value, abs=1e-9
        )

    def test_many_scores_are_thinned(self) -> None:
        rng = np.random.default_rng(0)
        n = 20_000
        frame = answers([(int(label), 0) for label in rng.choice(3, n, p=[0.1, 0.1, 0.8])])
        changed = frame["label"] != NAMES[NONE]
        frame["p_none"] = 1 / (1 + np.exp(rng.normal(size=n) + changed))
        frame["p_up"] = frame["p_down"] = (1 - frame["p_none"]) / 2
        arrays = prediction_arrays(frame)
        points = np.array(roc_points(arrays, "de"))
        assert len(points) == MAX_ROC_POINTS
        assert (np.diff(points, axis=0) >= 0).all()
        assert (points[0].tolist(), points[-1].tolist()) == ([0, 0], [1, 1])
        assert sk.auc(points[:, 0], points[:, 1]) == pytest.approx(estimate(arrays, "de", "de_auroc").value, abs=1e-4)

    def test_a_perfect_system(self) -> None:
        arrays = prediction_arrays(scored([2, 2, 0, 1, 2], [0.9, 0.8, 0.1, 0.2, 0.0]))
        assert (0.0, 1.0) in roc_points(arrays.take(np.arange(4)), "de")
        assert (0.0, 1.0) not in roc_points(arrays, "de")

    def test_nothing_to_draw(self) -> None:
        assert roc_points(prediction_arrays(scored([2, 2], [0.9, 0.8])), "de") == []
        assert roc_points(prediction_arrays(answers([(0, 0), (2, 1)])), "de") == []


class TestTies:
    def test_equal_scores_reached_in_two_ways_tie(self) -> None:
        assert 0.1 / (0.1 + 0.2) != 0.3 / (0.3 + 0.6)
        frame = answers([(0, 0), (1, 0)], gene="G", p_up=[0.1, 0.3], p_down=[0.2, 0.6], p_none=[0.7, 0.1])
        for metric in ("dir_auroc", "dir_auprc", "dir_per_gene_auroc"):
            assert estimate(prediction_arrays(frame), "dir", metric).value == 0.5
        assert roc_points(prediction_arrays(frame), "dir") == [(0, 0), (1, 1)]


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
    @pytest.mark.parametrize(("task", "metric"), [(one.task, one.name) for one in METRICS])
    def test_sums_to_zero_and_does_not_depend_on_row_order(self, task: str, metric: str) -> None:
        frame = predictions(seed=3)
        found = estimate(prediction_arrays(frame), task, metric)
        assert found.psi.sum() == pytest.approx(0, abs=1e-12)
        assert (found.psi_unit is None) == (found.unit is None)
        if found.psi_unit is not None:
            assert found.psi_unit.sum() == pytest.approx(0, abs=1e-12)
        shuffled = frame.sample(frac=1, random_state=1, ignore_index=True)
        again = estimate(prediction_arrays(shuffled), task, metric)
        assert again.value == pytest.approx(found.value, abs=1e-12)
        by_item = pd.Series(found.psi, index=frame["item_id"].iloc[found.rows])
        by_item_again = pd.Series(again.psi, index=shuffled["item_id"].iloc[again.rows])
        assert by_item_again.reindex(by_item.index).to_numpy() == pytest.approx(by_item.to_numpy(), abs=1e-12)

    @pytest.mark.parametrize(
        ("task", "metric"),
        [(one.task, one.name) for one in METRICS if "_per_" not in one.name and not one.no_interval],
    )
    def test_is_the_first_order_effect_of_leaving_an_item_out(self, task: str, metric: str) -> None:
        arrays = prediction_arrays(predictions(n=600, seed=5))
        found = estimate(arrays, task, metric)
        for at in range(0, len(found.rows), 37):
            use = np.ones(len(arrays.label), dtype=np.bool_)
            use[found.rows[at]] = False
            moved = estimate(arrays, task, metric, use).value - found.value
            # What is left is of second order; the recall of a rare class has its own, smaller, denominator.
            assert -found.psi[at] == pytest.approx(moved, abs=0.03 / len(found.rows) + 0.05 * abs(moved))

    @pytest.mark.parametrize(
        ("task", "metric"),
        [(one.task, one.name) for one in METRICS if "_per_" not in one.name and not one.no_interval],
    )
    def test_spread_is_that_of_a_bootstrap_over_items(self, task: str, metric: str) -> None:
        arrays = prediction_arrays(predictions(n=700, seed=8))
        n = len(arrays.label)
        found = estimate(arrays, task, metric)
        rng = np.random.default_rng(0)
        replicates = [estimate(arrays.take(rng.integers(0, n, n)), task, metric).value for _ in range(600)]
        assert np.sqrt(found.psi @ found.psi) == pytest.approx(np.std(replicates), rel=0.12)

    @pytest.mark.parametrize(
        ("metric", "column"), [("de_per_gene_auroc", "gene"), ("de_per_perturbation_auroc", "pert")]
    )
    def test_unit_term_is_each_units_share_of_the_mean(self, metric: str, column: str) -> None:
        frame = predictions(seed=6, error=0)
        arrays = prediction_arrays(frame)
        found = estimate(arrays, "de", metric)
        assert found.unit == column
        assert found.n_units is not None
        unit = frame["cell_line"] + "|" + frame[column]
        total = pd.Series(found.psi_unit).groupby(unit.iloc[found.rows].to_numpy()).sum()
        assert len(total) == found.n_units
        for name in total.index:
            own = np.asarray(unit == name)
            a_unit = estimate(arrays, "de", "de_auroc", own).value
            assert total[name] == pytest.approx((a_unit - found.value) / found.n_units, abs=1e-12)

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

    def test_challenge_score_is_the_mean_of_two_aurocs(self) -> None:
        """As the README of Genentech/BioReasoningChallenge defines it, with scikit-learn's AUROC."""
        frame = predictions(seed=4, n=300, missing=0, error=0)
        p_up, p_down = (frame[name].to_numpy() for name in ("p_up", "p_down"))
        changed = (frame["label"] != NAMES[2]).to_numpy()
        share = np.divide(p_up, p_up + p_down, out=np.full(len(frame), 0.5), where=p_up + p_down > 0)
        de = sk.roc_auc_score(changed, (p_up + p_down).round(12))
        direction = sk.roc_auc_score((frame["label"] == NAMES[0])[changed], share[changed].round(12))
        found = estimate(prediction_arrays(frame), "three_class", "challenge_score")
        assert found.value == pytest.approx((de + direction) / 2, abs=1e-12)
        unchanged = estimate(prediction_arrays(frame[~changed]), "three_class", "challenge_score")
        assert unchanged.reason == "needs differentially expressed items and others"

    def test_unknown_metric(self) -> None:
        with pytest.raises(InputError, match="'auroc' is unknown"):
            find_metric("auroc")
        with pytest.raises(InputError, match="dir/accuracy is unknown"):
            estimate(prediction_arrays(answers([(0, 0)])), "dir", "accuracy")

    def test_every_name_stands_for_one_metric(self) -> None:
        assert find_metric("accuracy").task == "three_class"
        assert find_metric("accuracy", "de").task == "de"
        assert len({(one.task, one.name) for one in METRICS}) == len(METRICS) == len(metric_names()) + 1


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
