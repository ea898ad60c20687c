"""Agreement with other software and with published figures, to 1e-6 (published figures: to the digits printed).

scikit-learn's metrics are compared in test_metrics.py. `stats_cases.json` holds cases worked with exact rationals.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from lazily import Lazy

from benchmarks.screens.schema import CELL_LINES
from benchmarks.statistics.areas import per_gene_auroc, placements
from benchmarks.statistics.arrays import PredictionArrays, prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.reliability import expected_calibration_error, reliability_bins
from benchmarks.statistics.significance import adjust, compare
from benchmarks.statistics.variance import add_seed_variance, two_way_variance
from rewards import LABELS, Label

sm, multitest = Lazy("statsmodels.api"), Lazy("statsmodels.stats.multitest")
stats, sk = Lazy("scipy.stats"), Lazy("sklearn.metrics")

NAMES = [str(label) for label in LABELS]
CASES = {
    case["id"]: case
    for case in json.loads((Path(__file__).parent / "stats_cases.json").read_text(encoding="utf-8"))["cases"]
}


def close(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)


def items(n: int, pert: npt.ArrayLike | None = None, gene: npt.ArrayLike | None = None) -> pd.DataFrame:
    """`n` items; each of its own perturbation and gene unless told."""
    perts, genes = (np.arange(n) if code is None else np.asarray(code) for code in (pert, gene))
    return pd.DataFrame(
        {
            "item_id": [f"k562|P{p}|G{g}|{i}" for i, (p, g) in enumerate(zip(perts, genes, strict=True))],
            "cell_line": "k562",
            "pert": [f"P{p}" for p in perts],
            "gene": [f"G{g}" for g in genes],
            "label": NAMES[0],
            "status": "answered",
        }
    )


def answered(frame: pd.DataFrame, right: npt.ArrayLike, seed: int = 0) -> pd.DataFrame:
    return frame.assign(answer=np.where(np.asarray(right) == 1, NAMES[0], NAMES[2]), seed=seed)


def with_difference(
    frame: pd.DataFrame, d: npt.ArrayLike, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Two systems whose correctness differs by `d`."""
    return answered(frame, np.asarray(d) == 1, seed), answered(frame, np.asarray(d) == -1, seed)


class TestWorkedCases:
    def test_none_is_left_out(self) -> None:
        assert set(CASES) == {
            "per_gene_auroc_ties", "mcc_multiclass", "cluster_se_mean_diff", "ece",
            "bonus_seed_plus_item_variance",
        }  # fmt: skip

    def test_per_gene_auroc(self) -> None:
        case = CASES["per_gene_auroc_ties"]
        gene, label, score = zip(*case["inputs"]["rows"], strict=True)
        expected = case["expected"]
        assert per_gene_auroc(label, score, gene) == close(expected["macro"])
        frame = items(len(gene), gene=gene).assign(
            label=[NAMES[0] if one else NAMES[2] for one in label], answer=NAMES[0],
            p_up=score, p_down=0.0, p_none=1 - np.array(score),
        )  # fmt: skip
        arrays = prediction_arrays(frame)
        found = estimate(arrays, "de", "de_per_gene_auroc")
        assert found.value == close(expected["macro"])
        assert (found.n_units, found.n_units_left_out) == (expected["n_genes_used"], expected["n_genes_skipped"])
        assert estimate(arrays, "de", "de_auroc").value == close(expected["pooled"])
        for name, value in expected["per_gene"].items():
            own = np.array([one == name for one in gene])
            assert estimate(arrays, "de", "de_auroc", own).value == close(value)

    def test_mcc_and_f1(self) -> None:
        case = CASES["mcc_multiclass"]
        confusion = np.array(case["inputs"]["confusion"])
        true, given = (np.repeat(code.ravel(), confusion.ravel()) for code in np.indices((3, 3)))
        frame = items(len(true)).assign(label=np.array(NAMES)[true], answer=np.array(NAMES)[given])
        arrays = prediction_arrays(frame)
        for metric in ("mcc", "macro_f1", "accuracy"):
            assert estimate(arrays, "three_class", metric).value == close(case["expected"][metric])
        constant = prediction_arrays(frame.assign(answer=NAMES[2]))
        assert estimate(constant, "three_class", "mcc").value == case["expected"]["mcc_constant_pred"]

    def test_two_way_errors(self) -> None:
        case = CASES["cluster_se_mean_diff"]
        inputs, expected = case["inputs"], case["expected"]
        a, b = with_difference(items(len(inputs["d"]), inputs["pert"], inputs["gene"]), inputs["d"])
        result = compare(a, b)
        assert result.difference == close(expected["mean"])
        assert np.sqrt([result.v_pert, result.v_gene]) == close([expected["se_pert"], expected["se_gene"]])
        assert result.se == close(expected["se_two_way"])
        assert result.difference / result.se == close(expected["t_guarded"])
        assert (result.df, result.p_value) == close((expected["df"], expected["p_guarded"]))

    def test_negative_sum_is_floored(self) -> None:
        case = CASES["cluster_se_mean_diff"]
        d, pert, gene = (case["inputs"]["neg_example"][key] for key in ("d", "P", "G"))
        found = two_way_variance(np.array(d) / len(d), *(np.array(code) for code in (pert, gene, range(len(d)))))
        assert found.pert + found.gene - found.item == close(case["expected"]["neg_example_V2way_unguarded"])
        assert found.of_items == close(1 / 3)

    def test_seeds(self) -> None:
        case = CASES["bonus_seed_plus_item_variance"]
        inputs, expected = case["inputs"], case["expected"]
        frame = items(len(inputs["pert"]), inputs["pert"], inputs["gene"])
        pairs = [with_difference(frame, d, seed) for seed, d in enumerate(inputs["D"])]
        result = compare(pd.concat([a for a, _ in pairs]), pd.concat([b for _, b in pairs]))
        assert result.difference == close(expected["delta"])
        assert (result.v_pert, result.v_seed) == close((expected["V_items"], expected["V_seeds"]))
        variance, df = add_seed_variance(expected["V_items"], 2, result.per_seed)
        assert (np.sqrt(variance), df) == close((expected["se"], expected["df"]))
        assert 2 * stats.t.sf(result.difference / np.sqrt(variance), df) == close(expected["p"])

    def test_calibration_error(self) -> None:
        case = CASES["ece"]
        confidence, correct = case["inputs"]["conf"], case["inputs"]["correct"]
        bins = reliability_bins(confidence, correct)
        assert expected_calibration_error(bins) == close(case["expected"]["ece10_right_closed"])
        worst = max(abs(one.accuracy - one.confidence) for one in bins if one.n)
        assert worst == close(case["expected"]["mce10_right_closed"])
        # Values one rounding error off the edges, as 1 - 0.2 is, fall where the decimal numbers do.
        for nudged in (np.nextafter(confidence, 0), np.nextafter(confidence, 1)):
            assert expected_calibration_error(reliability_bins(nudged, correct)) == close(
                case["expected"]["ece10_right_closed"]
            )


class TestStatsmodelsAndScipy:
    @pytest.mark.parametrize("seed", range(4))
    def test_clustered_ols(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pert, gene = np.divmod(rng.choice(20 * 30, 300, replace=False), 30)
        shift = rng.normal(size=20)[pert] + rng.normal(size=30)[gene]
        d = np.sign(np.round(0.7 * (rng.normal(size=300) + shift)))
        result = compare(*with_difference(items(300, pert, gene), d))
        fit = sm.OLS(d, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": np.c_[pert, gene]}, use_t=True)
        assert (result.difference, result.se, result.p_value) == close((fit.params[0], fit.bse[0], fit.pvalues[0]))
        for code, variance in ((pert, result.v_pert), (gene, result.v_gene)):
            one_way = sm.OLS(d, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": code})
            assert np.sqrt(variance) == close(one_way.bse[0])

    def test_same_items_new_training_runs_is_the_paired_t_test_over_runs(self) -> None:
        rng = np.random.default_rng(1)
        frame = items(60, np.arange(60) % 9, np.arange(60) % 7)
        right = rng.random((2, 5, 60)) < np.array([0.7, 0.6])[:, None, None]
        a, b = (pd.concat([answered(frame, one, seed) for seed, one in enumerate(runs)]) for runs in right)
        result = compare(a, b)
        test = stats.ttest_rel(right[0].mean(axis=1), right[1].mean(axis=1))
        assert result.p_same_items == close(test.pvalue)
        assert result.per_seed == close(right[0].mean(axis=1) - right[1].mean(axis=1))

    @pytest.mark.parametrize("method", ["holm", "fdr_bh"])
    def test_multipletests(self, method: Any) -> None:
        p = [0.04, 0.001, float("nan"), 0.03, 0.5, 0.012]
        expected = np.full(6, np.nan)
        expected[[0, 1, 3, 4, 5]] = multitest.multipletests([0.04, 0.001, 0.03, 0.5, 0.012], method=method)[1]
        assert adjust(p, method) == pytest.approx(expected.tolist(), abs=1e-6, nan_ok=True)


# DeLong, DeLong & Clarke-Pearson 1988 (10.2307/2531595): ovarian cancer patients with an intestinal obstruction; does
# surgery help (1), told from albumin, total protein and the K-G score (high is bad: 10 - score is used). The 43
# records without a missing value, as the SAS/STAT manual prints them (PROC LOGISTIC, "Comparing Receiver Operating
# Characteristic Curves"). Columns: albumin, total protein, K-G score, outcome.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1   3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0   3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1   3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0   2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
# Area and standard error of each, and of the difference from the K-G score its value, error and chi-square, as printed.
AREAS = {"albumin": (0.7366, 0.0927), "K-G": (0.7258, 0.1028), "protein": (0.6478, 0.1000)}
DIFFERENCES = {"albumin": (0.0108, 0.0953, 0.0127), "protein": (-0.0780, 0.1046, 0.5554)}


def ovarian() -> tuple[npt.NDArray[np.bool_], dict[str, npt.NDArray[np.float64]]]:
    """Outcome, and the score of each test, higher for a better one."""
    albumin, protein, k_g, outcome = np.array(OVARIAN.split(), dtype=np.float64).reshape(-1, 4).T
    return outcome == 1, {"albumin": albumin, "protein": protein, "K-G": 10 - k_g}


class TestDeLong:
    def test_published_areas_and_differences(self) -> None:
        outcome, scores = ovarian()
        assert (len(outcome), outcome.sum()) == (43, 31)
        one_group = np.zeros(43, dtype=np.intp)
        found = {name: placements(outcome, score, one_group, 1) for name, score in scores.items()}

        def variance(placement: npt.NDArray[np.float64]) -> float:
            return sum(float(placement[own].var(ddof=1) / own.sum()) for own in (outcome, ~outcome))

        for name, (area, se) in AREAS.items():
            placement, value = found[name]
            assert (value[0], np.sqrt(variance(placement))) == pytest.approx((area, se), abs=5.1e-5)
        for name, (difference, se, chi_square) in DIFFERENCES.items():
            delta = found[name][1][0] - found["K-G"][1][0]
            error = np.sqrt(variance(found[name][0] - found["K-G"][0]))
            assert (delta, error, (delta / error) ** 2) == pytest.approx((difference, se, chi_square), abs=5.1e-5)

    @pytest.mark.parametrize("name", DIFFERENCES)
    def test_compare_with_every_item_its_own_cluster(self, name: str) -> None:
        outcome, scores = ovarian()
        frame = items(43).assign(label=np.where(outcome, NAMES[0], NAMES[2]), answer=NAMES[0])
        a, b = (
            frame.assign(p_up=scores[one] / 10, p_down=0.0, p_none=1 - scores[one] / 10) for one in (name, "K-G")
        )  # fmt: skip
        result = compare(a, b, "de_auroc")
        positive, negative = naive_delong(outcome, scores[name]) - naive_delong(outcome, scores["K-G"])
        # DeLong divides by n - 1 in each class, the clustered variance multiplies by N/(N - 1) over both.
        sums = [float((part[part_of] - part[part_of].mean()) @ (part[part_of] - part[part_of].mean()))
                / part_of.sum() ** 2 for part, part_of in ((positive, outcome), (negative, ~outcome))]  # fmt: skip
        assert result.se == close(np.sqrt(sum(sums) * 43 / 42))
        assert result.difference == pytest.approx(DIFFERENCES[name][0], abs=5.1e-5)
        assert result.se == pytest.approx(DIFFERENCES[name][1], rel=0.05)

    def test_placements_equal_all_pairs(self) -> None:
        rng = np.random.default_rng(0)
        positive = rng.random(150) < 0.3
        score = np.round(rng.normal(size=150) + positive, 1)
        found, _ = placements(positive, score, np.zeros(150, dtype=np.intp), 1)
        of_positive, of_negative = naive_delong(positive, score)
        assert found == close(np.where(positive, of_positive, of_negative))


def naive_delong(positive: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(2, n) share of the other class that a positive beats, and that beats a negative, by comparing every pair."""
    wins = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    return np.array([wins[:, ~positive].mean(axis=1), wins[positive].mean(axis=0)])


@pytest.mark.parametrize("line", CELL_LINES[:2])
@pytest.mark.parametrize("task", ["de", "dir"])
def test_per_gene_auroc_is_perturbqas(full_frame: pd.DataFrame, line: str, task: str) -> None:
    """PerturbQA's definition: scikit-learn's AUROC of each gene with both classes among the line's test rows, mean."""
    test = full_frame[(full_frame["split"] == "test") & (full_frame["cell_line"] == line)]
    if task == "dir":
        test = test[test["label"] != str(Label.NONE)]
    else:
        test = test[test["gene"].isin(test["gene"].drop_duplicates().iloc[::4])]  # far more genes than in `dir`
    label = test["label"].ne(str(Label.NONE)) if task == "de" else test["label"].eq(str(Label.UP))
    rng = np.random.default_rng(0)
    score = pd.Series(np.clip(np.round(rng.normal(0.4, 0.2, len(test)) + 0.1 * label, 2), 0.01, 0.99), test.index)
    values = [
        sk.roc_auc_score(label[rows], score[rows])
        for rows in test.groupby("gene", observed=True).groups.values()
        if label[rows].nunique() == 2
    ]
    assert len(values) > 100
    assert per_gene_auroc(label, score, test["gene"]) == close(np.mean(values))
    found = estimate(as_system(test, score, task), task, f"{task}_per_gene_auroc")
    assert found.value == close(np.mean(values))
    assert found.n_units == len(values)


def as_system(test: pd.DataFrame, score: "pd.Series[float]", task: str) -> PredictionArrays:
    """A system whose score in the task is `score`."""
    p_up, p_down = (score / 2, score / 2) if task == "de" else (score, 1 - score)
    frame = test[["item_id", "cell_line", "pert", "gene", "label"]].assign(
        answer=NAMES[0], status="answered", p_up=p_up, p_down=p_down, p_none=1 - p_up - p_down
    )
    return prediction_arrays(frame)
