"""Paired comparisons against statsmodels, SciPy, worked cases and simulation."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import statsmodels.api as sm  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.metrics import METRICS, estimate
from benchmarks.prediction_arrays import prediction_arrays
from benchmarks.significance import add_seed_variance, compare, compare_pairs, confidence_interval, holm, two_way_se
from rewards import LABELS, InputError

NAMES = [str(label) for label in LABELS]

# Worked with exact rationals: differences in correctness of 14 items, 4 perturbations x 5 genes.
D = [1, 0, 1, 1, 0, 0, -1, 0, 1, -1, 0, -1, 1, 1]
PERT = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
GENE = [0, 1, 2, 3, 0, 1, 4, 2, 3, 4, 0, 4, 2, 3]
# Three training runs, eight items.
D_SEEDS = [[1, 0, 1, 0, 0, 1, 0, 1], [1, 0, 0, 0, 0, 1, -1, 1], [0, 0, 1, 0, 1, 1, 0, 1]]
PERT_SEEDS = [0, 0, 0, 0, 1, 1, 2, 2]
GENE_SEEDS = [0, 1, 2, 3, 0, 1, 2, 3]


def psi_of(d: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(d, dtype=np.float64)
    return np.asarray((values - values.mean()) / len(values))


def frame(right: npt.ArrayLike, pert: list[int], gene: list[int], seed: int = 0) -> pd.DataFrame:
    """Items answered right (1) or wrong (0); all are upregulated."""
    return pd.DataFrame(
        {
            "item_id": [f"k562|P{p}|G{g}" for p, g in zip(pert, gene, strict=True)],
            "cell_line": "k562",
            "pert": [f"P{p}" for p in pert],
            "gene": [f"G{g}" for g in gene],
            "label": NAMES[0],
            "sample": 0,
            "seed": seed,
            "answer": np.where(np.asarray(right) == 1, NAMES[0], NAMES[2]),
            "status": "answered",
        }
    )


def pair_of(d: list[int], pert: list[int], gene: list[int], seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two systems whose correctness differs by `d`."""
    return frame(np.asarray(d) == 1, pert, gene, seed), frame(np.asarray(d) == -1, pert, gene, seed)


def random_system(rng: np.random.Generator, items: pd.DataFrame, skill: float, seed: int = 0) -> pd.DataFrame:
    """Answers and probabilities, with effects of the perturbation and the gene on the errors."""
    label = items["label"].map(NAMES.index).to_numpy()
    shared = sum(rng.normal(size=(items[c].nunique(), 3))[pd.factorize(items[c])[0]] for c in ("pert", "gene"))
    logits = rng.normal(size=(len(items), 3)) + 0.5 * shared + skill * np.eye(3)[label]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return items.assign(
        seed=seed, sample=0, answer=np.array(NAMES)[logits.argmax(axis=1)], status="answered",
        p_up=prob[:, 0], p_down=prob[:, 1], p_none=prob[:, 2],
    )  # fmt: skip


def random_items(rng: np.random.Generator, n_pert: int = 30, n_gene: int = 25, share: float = 0.6) -> pd.DataFrame:
    grid = pd.DataFrame([(p, g) for p in range(n_pert) for g in range(n_gene)], columns=["pert", "gene"])
    grid = grid[rng.random(len(grid)) < share].reset_index(drop=True)
    return pd.DataFrame(
        {
            "item_id": "rpe1|P" + grid["pert"].astype(str) + "|G" + grid["gene"].astype(str),
            "cell_line": "rpe1",
            "pert": "P" + grid["pert"].astype(str),
            "gene": "G" + grid["gene"].astype(str),
            "label": rng.choice(NAMES, size=len(grid), p=[0.25, 0.25, 0.5]),
        }
    )


class TestTwoWay:
    def test_worked_case(self) -> None:
        se, df = two_way_se(psi_of(D), PERT, GENE)
        # Here V_gene + V_pert - V_item exceeds each of the three: the floor is not reached.
        assert se == pytest.approx(0.374736707, abs=1e-9)
        assert df == 3

    def test_floor_where_the_sum_is_negative(self) -> None:
        # V_pert = V_gene = 0 and V_item = 1/3: the unguarded sum is -1/3.
        se, df = two_way_se(psi_of([1, -1, -1, 1]), [0, 0, 1, 1], [0, 1, 0, 1])
        assert se**2 == pytest.approx(1 / 3, abs=1e-12)
        assert df == 1

    @pytest.mark.parametrize("seed", range(5))
    def test_statsmodels(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # 200 of the 15 x 25 pairs, each once, as in one cell line.
        pert, gene = np.divmod(rng.choice(15 * 25, 200, replace=False), 25)
        d = rng.normal(size=200) + rng.normal(size=15)[pert] + rng.normal(size=25)[gene]
        fit = sm.OLS(d, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": np.c_[pert, gene]}, use_t=True)
        se, df = two_way_se(psi_of(d), pert, gene)
        assert se == pytest.approx(float(fit.bse[0]), rel=1e-6)
        assert df == 14

    def test_every_item_its_own_cluster_is_the_plain_t_test(self) -> None:
        d = np.random.default_rng(0).normal(0.2, 1, 50)
        se, df = two_way_se(psi_of(d), range(50), range(50))
        t, p = stats.ttest_1samp(d, 0)
        assert d.mean() / se == pytest.approx(t, rel=1e-12)
        assert 2 * stats.t.sf(abs(d.mean() / se), df) == pytest.approx(p, rel=1e-9)

    @pytest.mark.parametrize(("pert", "gene"), [([0, 0], [0, 1]), ([0, 1], [0, 0])])
    def test_one_cluster(self, pert: list[int], gene: list[int]) -> None:
        with pytest.raises(InputError, match="two of each are the least"):
            two_way_se([1, -1], pert, gene)

    def test_lengths(self) -> None:
        with pytest.raises(InputError, match="pass one each"):
            two_way_se([1, -1], [0, 1, 2], [0, 1])


class TestCompare:
    def test_worked_case(self) -> None:
        result = compare(*pair_of(D, PERT, GENE))
        assert result.difference == pytest.approx(3 / 14, abs=1e-12)
        assert result.se == pytest.approx(0.374736707, abs=1e-9)
        assert result.df == 3
        assert result.p_value == pytest.approx(0.607474507, abs=1e-9)
        half = stats.t.ppf(0.975, 3) * result.se
        assert (result.low, result.high) == pytest.approx((3 / 14 - half, 3 / 14 + half), abs=1e-12)
        assert (result.n_items, result.n_perturbations, result.n_genes, result.n_seeds) == (14, 4, 5, 1)
        assert "training variance unknown" in result.test
        assert "fewer than 20" in result.test

    def test_seeds_worked_case(self) -> None:
        # Worked case of the combination, with the perturbations' variance for the items'.
        runs = np.mean(D_SEEDS, axis=1)
        variance, df = add_seed_variance(0.009114583333, 2, runs)
        assert np.sqrt(variance) == pytest.approx(0.126724219, abs=1e-9)
        assert df == pytest.approx(3.928263989, abs=1e-8)
        assert 2 * stats.t.sf(0.416666667 / np.sqrt(variance), df) == pytest.approx(0.031093561, abs=1e-8)

    def test_seed_variance_is_added_to_that_of_the_mean_over_runs(self) -> None:
        pairs = [pair_of(d, PERT_SEEDS, GENE_SEEDS, seed) for seed, d in enumerate(D_SEEDS)]
        result = compare(pd.concat([a for a, _ in pairs]), pd.concat([b for _, b in pairs]))
        mean = np.mean(D_SEEDS, axis=0)
        item_se, item_df = two_way_se(psi_of(mean), PERT_SEEDS, GENE_SEEDS)
        # Items vary more than perturbations and genes here: the floor is the items' own variance.
        assert item_se == pytest.approx(mean.std(ddof=1) / np.sqrt(8), abs=1e-12)
        variance, df = add_seed_variance(item_se**2, item_df, np.mean(D_SEEDS, axis=1))
        assert result.difference == pytest.approx(0.416666667, abs=1e-9)
        assert (result.se, result.df) == pytest.approx((np.sqrt(variance), df))
        assert result.se**2 > item_se**2
        assert (result.n_seeds, result.test.count("3 training runs, their variance included")) == (3, 1)

    def test_one_run_against_several_is_repeated(self) -> None:
        several = pd.concat([frame(np.asarray(d) == 1, PERT_SEEDS, GENE_SEEDS, s) for s, d in enumerate(D_SEEDS)])
        once = frame(np.asarray(D_SEEDS[1]) == -1, PERT_SEEDS, GENE_SEEDS, 7)
        repeated = pd.concat([once.assign(seed=seed) for seed in range(3)])
        with_one, with_three = compare(several, once), compare(several, repeated)
        assert replace(with_one, test="") == replace(with_three, test="", p_holm=with_one.p_holm)
        assert "one repeated" in with_one.test

    def test_different_seeds_cannot_be_paired(self) -> None:
        a = pd.concat([frame([1, 0], [0, 1], [0, 1], seed) for seed in (0, 1)])
        b = pd.concat([frame([1, 0], [0, 1], [0, 1], seed) for seed in (0, 2)])
        with pytest.raises(InputError, match=r"runs \(0, 1\) and \(0, 2\) cannot be paired"):
            compare(a, b)

    @pytest.mark.parametrize("metric", METRICS)
    def test_same_system_twice_does_not_differ(self, metric: str) -> None:
        rng = np.random.default_rng(0)
        a = random_system(rng, random_items(rng), 1.0)
        result = compare(a, a.sample(frac=1, random_state=0), metric)
        assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
        assert result.test == "no item differs"

    @pytest.mark.parametrize("metric", METRICS)
    def test_swapping_flips_the_sign(self, metric: str) -> None:
        rng = np.random.default_rng(1)
        items = random_items(rng)
        a, b = random_system(rng, items, 1.0), random_system(rng, items, 0.6)
        forth, back = compare(a, b, metric), compare(b, a, metric)
        assert forth.difference == pytest.approx(-back.difference, abs=1e-15)
        assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
        assert forth.p_value == pytest.approx(back.p_value, rel=1e-9)
        assert (forth.value_a, forth.value_b) == (back.value_b, back.value_a)
        assert forth.low < forth.difference < forth.high

    @given(st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_row_order_does_not_matter(self, seed: int) -> None:
        rng = np.random.default_rng(2)
        items = random_items(rng, 12, 10)
        a, b = random_system(rng, items, 1.0), random_system(rng, items, 0.6)
        shuffled = compare(a.sample(frac=1, random_state=seed), b.sample(frac=1, random_state=seed + 1), "mcc")
        assert shuffled.low == pytest.approx(compare(a, b, "mcc").low, abs=1e-12)

    def test_accuracy_is_statsmodels_on_the_differences(self) -> None:
        rng = np.random.default_rng(3)
        items = random_items(rng)
        a, b = random_system(rng, items, 1.0), random_system(rng, items, 0.7)
        d = (a["answer"] == a["label"]).astype(float) - (b["answer"] == b["label"]).astype(float)
        one_way = [
            float(
                sm.OLS(d, np.ones(len(d)))
                .fit(cov_type="cluster", cov_kwds={"groups": pd.factorize(groups)[0]})
                .bse.iloc[0]
            )
            ** 2
            for groups in (items["pert"], items["gene"], items["item_id"])
        ]
        expected = np.sqrt(max(one_way[0] + one_way[1] - one_way[2], *one_way))
        assert compare(a, b).se == pytest.approx(expected, rel=1e-6)

    def test_auroc_is_delong_where_items_are_independent(self) -> None:
        rng = np.random.default_rng(4)
        items = random_items(rng, 200, 1, 1.0)
        # Every item its own perturbation and gene: the variance is DeLong's up to its factors m/(m-1).
        items["gene"] = "G" + items["pert"].str[1:]
        items["item_id"] = "rpe1|" + items["pert"] + "|" + items["gene"]
        a, b = random_system(rng, items, 1.0), random_system(rng, items, 0.5)
        result = compare(a, b, "de_auroc")
        positive = (items["label"] != NAMES[2]).to_numpy()
        v, w = [], []
        for one in (a, b):
            score = 1 - one["p_none"].to_numpy()
            wins = (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])
            v.append(wins.mean(axis=1))
            w.append(wins.mean(axis=0))
        delong = np.var(v[0] - v[1], ddof=1) / positive.sum() + np.var(w[0] - w[1], ddof=1) / (~positive).sum()
        assert result.difference == pytest.approx(v[0].mean() - v[1].mean(), abs=1e-12)
        assert result.se == pytest.approx(np.sqrt(delong), rel=0.01)


class TestUnpairable:
    a, b = pair_of(D, PERT, GENE)

    def test_missing_on_either_side(self) -> None:
        with pytest.raises(InputError, match=r"b lacks 1 of a's items, e\.g\. 'k562.P0.G0'"):
            compare(self.a, self.b.iloc[1:])
        with pytest.raises(InputError, match=r"a lacks 2 of b's items, e\.g\. 'k562.P0.G0'"):
            compare(self.a.iloc[2:], self.b)

    def test_no_shared_item(self) -> None:
        with pytest.raises(InputError, match="share no item"):
            compare(self.a, self.b.assign(item_id="x" + self.b["item_id"]))

    def test_duplicated_rows_would_shrink_the_interval(self) -> None:
        with pytest.raises(InputError, match=r"row 14 .*'k562.P0.G0'.*occurs twice"):
            compare(pd.concat([self.a] * 10), pd.concat([self.b] * 10))

    def test_another_label_for_one_item(self) -> None:
        other = self.b.copy()
        other.loc[3, "label"] = NAMES[1]
        with pytest.raises(InputError, match=r"item 'k562.P0.G3' has another label in b than in a"):
            compare(self.a, other)

    def test_another_perturbation_for_one_item(self) -> None:
        other = self.b.copy()
        other.loc[3, "pert"] = "P9"
        with pytest.raises(InputError, match=r"item 'k562.P0.G3' has another pert in b than in a"):
            compare(self.a, other)

    def test_system_without_scores(self) -> None:
        with pytest.raises(InputError, match=r"de_auroc: .*needs differentially expressed items and others"):
            compare(self.a, self.b, "de_auroc")
        with pytest.raises(InputError, match=r"brier: .*a: no probabilities; b: no probabilities"):
            compare(self.a, self.b, "brier")

    def test_one_perturbation(self) -> None:
        with pytest.raises(InputError, match="no interval from one perturbation"):
            compare(*pair_of([1, -1, 0], [0, 0, 0], [0, 1, 2]))

    def test_unknown_metric(self) -> None:
        with pytest.raises(InputError, match="'acc' is unknown"):
            compare(self.a, self.b, "acc")

    def test_errors_of_either_are_left_out_and_counted(self) -> None:
        a, b = self.a.copy(), self.b.copy()
        a.loc[0, ["answer", "status"]] = [None, "error"]
        b.loc[13, ["answer", "status"]] = [None, "error"]
        result = compare(a, b)
        kept = slice(1, 13)
        assert (result.n_items, result.n_unscorable) == (12, 2)
        assert result.difference == pytest.approx(np.mean(D[kept]), abs=1e-12)
        assert result.se == pytest.approx(compare(*pair_of(D[kept], PERT[kept], GENE[kept])).se, abs=1e-12)

    def test_difference_without_any_variation_is_not_called_certain(self) -> None:
        result = compare(frame([1] * 4, [0, 0, 1, 1], [0, 1, 0, 1]), frame([0] * 4, [0, 0, 1, 1], [0, 1, 0, 1]))
        assert result.difference == 1
        assert np.isnan([result.low, result.high, result.p_value]).all()
        assert result.test == "not tested: no variation between items"


class TestFamilies:
    def test_holm(self) -> None:
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        found = holm([0.01, float("nan"), 0.04])
        assert found == pytest.approx([0.02, float("nan"), 0.04], nan_ok=True)
        assert holm([]) == []

    def test_adjusted_within_each_metric(self) -> None:
        rng = np.random.default_rng(5)
        items = random_items(rng)
        systems = {
            name: prediction_arrays(random_system(rng, items, s))
            for name, s in zip("abc", (1.2, 0.9, 0.6), strict=True)
        }
        pairs = [("a", "b"), ("a", "c"), ("b", "c")]
        rows = compare_pairs(systems, pairs, ["accuracy", "de_auroc"])
        assert [(a, b, one.metric) for a, b, one in rows] == [
            (a, b, metric) for metric in ("accuracy", "de_auroc") for a, b in pairs
        ]
        for metric in ("accuracy", "de_auroc"):
            family = [one for _, _, one in rows if one.metric == metric]
            assert [one.p_holm for one in family] == pytest.approx(holm([one.p_value for one in family]))


class TestInterval:
    def test_is_the_estimates_own(self) -> None:
        rng = np.random.default_rng(6)
        arrays = prediction_arrays(random_system(rng, random_items(rng), 1.0))
        found = estimate(arrays, "three_class", "accuracy")
        interval = confidence_interval(arrays, found, "accuracy")
        se, df = two_way_se(found.psi, np.asarray(arrays.pert), np.asarray(arrays.gene))
        half = stats.t.ppf(0.975, df) * se
        assert (interval.low, interval.high) == pytest.approx((found.value - half, found.value + half), abs=1e-12)

    def test_stays_within_the_metrics_range(self) -> None:
        arrays = prediction_arrays(frame([1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1]))
        interval = confidence_interval(arrays, estimate(arrays, "three_class", "accuracy"), "accuracy")
        assert (interval.low, interval.high) == (0, 1)

    def test_all_right_has_no_interval(self) -> None:
        arrays = prediction_arrays(frame([1] * 4, [0, 0, 1, 1], [0, 1, 0, 1]))
        interval = confidence_interval(arrays, estimate(arrays, "three_class", "accuracy"), "accuracy")
        assert np.isnan([interval.low, interval.high]).all()
        assert interval.reason == "no variation between items"

    def test_one_gene_has_no_interval(self) -> None:
        arrays = prediction_arrays(frame([1, 0, 1], [0, 1, 2], [0, 0, 0]))
        interval = confidence_interval(arrays, estimate(arrays, "three_class", "accuracy"), "accuracy")
        assert interval.reason == "no interval from one gene"


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "de_auroc", "de_per_gene_auroc"])
def test_equal_systems_are_called_different_about_as_often_as_meant(metric: str) -> None:
    """Both systems err with the same perturbation and gene effects in law; an item-wise test rejects about 20 %."""
    rng = np.random.default_rng(7)
    n_trials = 200
    p_values = []
    for _ in range(n_trials):
        items = random_items(rng, 30, 30, 0.5)
        p_values.append(compare(random_system(rng, items, 1.0), random_system(rng, items, 1.0), metric).p_value)
    # Binomial(200, .05) lies below 21 with probability .9999; .078 (per-gene AUROC's known worst) with .92.
    assert sum(p < 0.05 for p in p_values) <= 22
