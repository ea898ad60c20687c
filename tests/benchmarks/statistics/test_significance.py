"""Paired comparisons against statsmodels, SciPy, worked cases and simulation."""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazily import Lazy
from without_clock import UNHURRIED

from benchmarks.statistics.alignment import common_items
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.power import equivalence, perturbations_needed
from benchmarks.statistics.significance import (
    aa_checks,
    adjust,
    compare,
    compare_pairs,
    compare_systems,
    confidence_interval,
)
from benchmarks.statistics.variance import add_seed_variance, two_way_variance
from rewards import LABELS, InputError
from tools.calibration import TESTED

sm, stats, metrics = Lazy("statsmodels.api"), Lazy("scipy.stats"), Lazy("sklearn.metrics")

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


def codes(pert: npt.ArrayLike, gene: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], ...]:
    """Whole numbers for the perturbations, the genes and their pairs."""
    both = np.unique(np.column_stack([pert, gene]), axis=0, return_inverse=True)[1]
    return tuple(np.asarray(pd.factorize(np.asarray(one).ravel())[0], dtype=np.intp) for one in (pert, gene, both))


def two_way_se(psi: npt.NDArray[np.float64], pert: npt.ArrayLike, gene: npt.ArrayLike) -> tuple[float, float]:
    """Standard error and its degrees of freedom."""
    found = two_way_variance(psi, *codes(pert, gene))
    return float(np.sqrt(found.of_items)), found.df


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
        # V_pert = V_gene = 0 and V_item = 1/3: the unguarded sum is -1/3, and 0 would be a certainty nobody has.
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
        se, df = two_way_se(psi_of(d), np.arange(50), np.arange(50))
        t, p = stats.ttest_1samp(d, 0)
        assert d.mean() / se == pytest.approx(t, rel=1e-12)
        assert 2 * stats.t.sf(abs(d.mean() / se), df) == pytest.approx(p, rel=1e-9)


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
        assert (item_se**2, item_df) == (pytest.approx(0.009114583, abs=1e-9), 2)
        # Worked case.
        assert result.difference == pytest.approx(0.416666667, abs=1e-9)
        assert result.v_seed == pytest.approx(0.006944444, abs=1e-9)
        assert (result.se, result.df) == (pytest.approx(0.126724219, abs=1e-9), pytest.approx(3.928263989, abs=1e-8))
        assert result.p_value == pytest.approx(0.031093561, abs=1e-8)
        assert result.per_seed == pytest.approx(np.mean(D_SEEDS, axis=1))
        assert result.p_same_items == pytest.approx(stats.ttest_1samp(np.mean(D_SEEDS, axis=1), 0).pvalue)
        assert (result.n_seeds, result.test.count("3 training runs, their variance included")) == (3, 1)

    def test_one_run_against_several_is_repeated(self) -> None:
        several = pd.concat([frame(np.asarray(d) == 1, PERT_SEEDS, GENE_SEEDS, s) for s, d in enumerate(D_SEEDS)])
        once = frame(np.asarray(D_SEEDS[1]) == -1, PERT_SEEDS, GENE_SEEDS, 7)
        repeated = pd.concat([once.assign(seed=seed) for seed in range(3)])
        with_one, with_three = compare(several, once), compare(several, repeated)
        assert replace(with_one, test="") == replace(with_three, test="", p_holm=with_one.p_holm)
        assert "paired with each of 3" in with_one.test

    def test_different_seeds_cannot_be_paired(self) -> None:
        a = pd.concat([frame([1, 0], [0, 1], [0, 1], seed) for seed in (0, 1)])
        b = pd.concat([frame([1, 0], [0, 1], [0, 1], seed) for seed in (0, 2)])
        with pytest.raises(InputError, match=r"runs \(0, 1\) and \(0, 2\) cannot be paired"):
            compare(a, b)

    @pytest.mark.parametrize("metric", TESTED)
    def test_same_system_twice_does_not_differ(self, metric: str) -> None:
        rng = np.random.default_rng(0)
        a = random_system(rng, random_items(rng), 1.0)
        result = compare(a, a.sample(frac=1, random_state=0), metric)
        assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
        assert result.test == "no item differs"

    @pytest.mark.parametrize("metric", TESTED)
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
    @settings(UNHURRIED, max_examples=10)
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
        expected = np.sqrt(max(one_way[0] + one_way[1] - one_way[2], *one_way[:2]))
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
    def test_adjusted(self) -> None:
        assert adjust([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert adjust([0.01, 0.04, 0.03], "fdr_bh") == pytest.approx([0.03, 0.04, 0.04])
        found = adjust([0.01, float("nan"), 0.04])
        assert found == pytest.approx([0.02, float("nan"), 0.04], nan_ok=True)
        assert adjust([]) == []
        with pytest.raises(InputError, match="use 'holm' or 'fdr_bh'"):
            adjust([0.01], "bonferroni")  # type: ignore[arg-type]

    def test_all_pairs_and_one_against_all(self) -> None:
        rng = np.random.default_rng(5)
        items = random_items(rng)
        frames = {n: random_system(rng, items, s) for n, s in zip("abc", (1.2, 0.9, 0.6), strict=True)}
        table = compare_systems(frames, ["accuracy", "mcc"])
        assert list(zip(table["a"], table["b"], strict=True)) == [("b", "a"), ("c", "a"), ("c", "b")] * 2
        assert table["difference"][0] == compare(frames["b"], frames["a"]).difference
        assert table["p_holm"][:3].tolist() == pytest.approx(adjust(table["p_value"][:3].tolist()))
        table = compare_systems(frames, against="b", method="fdr_bh")
        assert list(zip(table["a"], table["b"], strict=True)) == [("a", "b"), ("c", "b")]
        with pytest.raises(InputError, match="no system 'd'"):
            compare_systems(frames, against="d")
        with pytest.raises(InputError, match="pass two or more"):
            compare_systems({"a": frames["a"]})

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
            assert [one.p_holm for one in family] == pytest.approx(adjust([one.p_value for one in family]))


class TestInterval:
    def test_is_the_estimates_own(self) -> None:
        rng = np.random.default_rng(6)
        arrays = prediction_arrays(random_system(rng, random_items(rng), 1.0))
        found = estimate(arrays, "three_class", "accuracy")
        interval = confidence_interval(arrays, found, "accuracy")
        se, df = two_way_se(found.psi, arrays.pert.codes, arrays.gene.codes)
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


def test_equal_systems_are_called_different_about_as_often_as_meant() -> None:
    """Both systems err with the same perturbation and gene effects in law."""
    rng = np.random.default_rng(7)
    trials = []
    for _ in range(150):
        items = random_items(rng, 30, 30, 0.5)
        pair = {name: random_system(rng, items, 1.0) for name in ("a", "b")}
        trials.append(compare_systems(pair, ["accuracy", "de_per_gene_auroc"]))
    rejected = pd.concat(trials).groupby("metric")["p_value"].agg(lambda p: (p < 0.05).sum())
    # Binomial(150, .05) is at most 15 with probability .997; tests/slow/test_calibration.py looks at every metric.
    assert rejected.between(1, 15).all() and len(rejected) == 2


class TestMeanOverGenes:
    """The variance of a mean of AUROCs within genes, against what it must be in cases that can be worked out."""

    def test_perturbation_effect_on_single_positives_is_seen(self) -> None:
        # 40 genes with one positive each, all of the same perturbation: if it is easy, all are right together.
        genes, psi, psi_gene, pert, gene = 40, [], [], [], []
        auroc = np.random.default_rng(0).random(genes)
        for g in range(genes):
            deviation = auroc[g] - auroc.mean()
            psi += [deviation / genes, deviation / genes / 2, deviation / genes / 2]
            psi_gene += [deviation / genes / 3] * 3
            pert += [0 if g < 20 else 1, 2 + g, 100 + g]
            gene += [g] * 3
        found = two_way_variance(np.array(psi), *codes(pert, gene), unit="gene", psi_unit=np.array(psi_gene))
        shared = [auroc[:20] - auroc.mean(), auroc[20:] - auroc.mean()]
        crossed = sum(x.sum() ** 2 - (x**2).sum() for x in shared) / genes**2
        n_pert, n_item = 2 + 2 * genes, 3 * genes
        alone = ((auroc - auroc.mean()) ** 2).sum() * 1.5 / genes**2
        expected = (crossed + alone) * n_pert / (n_pert - 1) - alone * n_item / (n_item - 1) + found.gene
        assert found.pert + found.gene - found.item == pytest.approx(expected, abs=1e-15)
        assert found.of_items == max(expected, found.gene)


class TestPower:
    rng = np.random.default_rng(8)
    items = random_items(rng)
    a, b = random_system(rng, items, 1.0), random_system(rng, items, 0.6)

    def test_minimum_detectable_and_effect_size(self) -> None:
        found = compare(self.a, self.b)
        assert found.minimum_detectable == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * found.se)
        assert found.effect_size == pytest.approx(found.difference / (found.se * np.sqrt(30)))

    def test_what_is_detectable_needs_no_more_perturbations(self) -> None:
        found = compare(self.a, self.b)
        assert perturbations_needed(found, found.minimum_detectable) == pytest.approx(30)
        # Genes stay: half the difference needs more than four times the perturbations, and a tiny one cannot be had.
        assert perturbations_needed(found, found.minimum_detectable / 1.1) > 30 * 1.21
        assert perturbations_needed(found, 1e-4) == np.inf
        with pytest.raises(InputError, match="above 0"):
            perturbations_needed(found, 0)

    def test_equivalence_is_two_one_sided_tests(self) -> None:
        found = compare(self.a, self.b)
        margin = 0.05
        said = equivalence(found, margin)
        low, high = (stats.t.sf((margin + s * found.difference) / found.se, found.df) for s in (1, -1))
        assert said.p_no_worse == pytest.approx(low)
        assert said.p_equivalent == pytest.approx(max(low, high))
        assert equivalence(found, 10).p_equivalent < 1e-6
        with pytest.raises(InputError, match="above 0"):
            equivalence(found, -0.1)

    def test_no_worse_means_lower_for_brier(self) -> None:
        better = compare(self.a, self.b, "brier")
        assert better.difference < 0
        assert equivalence(better, 0.01).p_no_worse < 0.05

    def test_the_same_system_is_equivalent(self) -> None:
        assert equivalence(compare(self.a, self.a), 0.01).p_equivalent == 0


class TestMissing:
    a, b = pair_of(D, PERT, GENE)

    def test_dropped_on_request_and_counted(self) -> None:
        result = compare(self.a.iloc[1:], self.b.iloc[:-1], missing="drop")
        assert (result.n_items, result.n_missing) == (12, 2)
        assert result.difference == pytest.approx(np.mean(D[1:-1]))

    def test_nothing_in_common(self) -> None:
        with pytest.raises(InputError, match="share no item"):
            compare(self.a.iloc[:4], self.b.iloc[4:], missing="drop")

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="use 'error' or 'drop'"):
            compare(self.a, self.b, missing="ignore")  # type: ignore[arg-type]


class TestUnequalItems:
    """Systems with other items: each pair is compared on those that both have."""

    rng = np.random.default_rng(13)
    items = random_items(rng)
    a, b = random_system(rng, items, 1.2), random_system(rng, items, 0.9)
    c = random_system(rng, items, 0.6)

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        return {"a": self.a.iloc[:90], "b": self.b, "c": self.c.iloc[40:].sample(frac=1, random_state=0)}

    @pytest.mark.parametrize("metric", ["accuracy", "mcc", "de_auroc", "de_per_gene_auroc"])
    def test_each_pair_is_that_of_compare(self, metric: str) -> None:
        table = compare_systems(self.frames, [metric], missing="drop")
        assert list(zip(table["a"], table["b"], strict=True)) == [("b", "a"), ("c", "a"), ("c", "b")]
        for row in table.itertuples():
            alone = compare(self.frames[row.a], self.frames[row.b], metric, missing="drop")
            for name in ("difference", "low", "high", "p_value", "value_a", "value_b", "se"):
                assert getattr(row, name) == pytest.approx(getattr(alone, name), abs=1e-12), name
            assert (row.n_items, row.n_missing) == (alone.n_items, alone.n_missing)
            assert row.test == alone.test
        n = len(self.items)
        assert table["n_missing"].tolist() == [n - 90, n - 50, 40]

    def test_pairs_stay_one_family(self) -> None:
        table = compare_systems(self.frames, missing="drop")
        assert table["p_holm"].tolist() == pytest.approx(adjust(table["p_value"].tolist()))
        assert (table["p_holm"] > table["p_value"]).any()

    def test_equal_items_change_nothing(self) -> None:
        frames = {"a": self.a, "b": self.b, "c": self.c}
        metrics = ["accuracy", "de_auroc", "de_per_gene_auroc"]
        pd.testing.assert_frame_equal(
            compare_systems(frames, metrics), compare_systems(frames, metrics, missing="drop"), check_exact=True
        )

    def test_a_pair_that_shares_too_little_says_why_and_is_no_member_of_the_family(self) -> None:
        one_pert = self.b[self.b["pert"] == self.b["pert"].iloc[0]]
        frames = {"a": self.a.iloc[:90], "b": one_pert, "c": self.c.iloc[90:], "d": self.c}
        table = compare_systems(frames, missing="drop").set_index(["a", "b"])
        assert table.loc[("c", "a"), "test"] == "not tested: no item in common"
        assert table.loc[("c", "a"), "n_items"] == 0
        assert table.loc[("c", "a"), "n_missing"] == len(self.items)
        assert table.loc[("b", "a"), "test"] == "not tested: no interval from one perturbation"
        tested = table[table["p_value"].notna()]
        assert set(tested.index) == {("d", "a"), ("d", "c")}
        assert tested["p_holm"].tolist() == pytest.approx(adjust(tested["p_value"].tolist()))

    def test_refused_unless_asked_for(self) -> None:
        with pytest.raises(InputError, match="a lacks .* of b's items"):
            compare_systems({"b": self.b, "a": self.a.iloc[:90]})
        with pytest.raises(InputError, match="use 'error' or 'drop'"):
            compare_systems(self.frames, missing="ignore")  # type: ignore[arg-type]

    def test_an_item_has_one_description(self) -> None:
        other = self.b.copy()
        other.loc[95, "gene"] = "G99"
        with pytest.raises(InputError, match="has another gene in c than in another system"):
            compare_systems({"a": self.a.iloc[:90], "b": self.b, "c": other}, missing="drop")

    def test_what_is_unchanged_stays_the_same_object(self) -> None:
        few, all_ = prediction_arrays(self.a.iloc[:90]), prediction_arrays(self.b)
        a, b, n_missing = common_items(few, all_)
        assert a is few and b is not all_ and n_missing == len(self.items) - 90
        assert list(a.item_id) == list(b.item_id)
        assert common_items(all_, all_) == (all_, all_, 0)


class TestSameSystemTwice:
    def test_halves_of_the_samples(self) -> None:
        rng = np.random.default_rng(10)
        items = random_items(rng)
        samples = pd.concat([random_system(rng, items, 1.0).assign(sample=s) for s in range(5)])
        found = aa_checks(samples, ["accuracy", "de_auroc", "ece"])
        assert [one.metric for one in found] == ["accuracy", "de_auroc"]
        assert all(one.p_holm >= one.p_value > 0.001 for one in found)
        first, second = samples[samples["sample"] < 2], samples[samples["sample"].between(2, 3)]
        assert found[0].difference == pytest.approx(compare(first, second).difference)

    def test_a_fault_in_sampling_is_seen(self) -> None:
        rng = np.random.default_rng(11)
        items = random_items(rng)
        drifted = pd.concat([random_system(rng, items, 2.0 - s).assign(sample=s) for s in range(2)])
        assert aa_checks(drifted, ["accuracy"])[0].p_holm < 0.01

    def test_one_sample_cannot_be_split(self) -> None:
        assert (
            aa_checks(
                random_system(np.random.default_rng(0), random_items(np.random.default_rng(0)), 1.0), ["accuracy"]
            )
            == []
        )


class TestAgainstTheBootstrap:
    """Two-way bootstrap that computes each metric anew with scikit-learn from resampled perturbations and genes.

    Its variance is V_pert + V_gene + V_item (Owen 2007, 10.1214/07-AOAS122), which checks the influences.
    """

    rng = np.random.default_rng(12)
    items = random_items(rng, 50, 40, 0.5)
    a, b = random_system(rng, items, 1.0), random_system(rng, items, 0.8)

    @pytest.mark.parametrize(
        "metric",
        ["accuracy", "balanced_accuracy", "macro_f1", "mcc", "brier", "recall_up", "precision_up", "de_auroc",
         "de_auprc", "dir_auroc", "dir_auprc"],
    )  # fmt: skip
    def test_variance(self, metric: str) -> None:
        found = compare(self.a, self.b, metric)
        systems = [coded(self.a), coded(self.b)]
        everything = np.ones(len(self.items))
        assert weighted(metric, *systems[0], everything) == pytest.approx(found.value_a, abs=1e-9)
        rng = np.random.default_rng(0)
        differences = []
        groups = [pd.factorize(self.items[name]) for name in ("pert", "gene")]
        for _ in range(120):
            weight = everything.copy()
            for code, names in groups:
                weight *= np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[code]
            a, b = (weighted(metric, *system, weight) for system in systems)
            differences.append(a - b)
        # 120 replicates tell a variance to 13 %.
        assert np.var(differences) == pytest.approx(found.v_pert + found.v_gene + found.v_item, rel=0.3)


Coded: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def coded(system: pd.DataFrame) -> Coded:
    """Label and answer as positions in LABELS, and the three probabilities."""
    label, answer = (system[name].map(NAMES.index).to_numpy() for name in ("label", "answer"))
    return label, answer, system[["p_up", "p_down", "p_none"]].to_numpy()


def weighted(
    metric: str,
    label: npt.NDArray[np.int64],
    answer: npt.NDArray[np.int64],
    prob: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
) -> float:
    """A metric by scikit-learn, items weighted."""
    kept = (weight > 0) & ((label != 2) | (not metric.startswith("dir_")))
    label, answer, prob, weight = label[kept], answer[kept], prob[kept], weight[kept]
    if metric.endswith(("auroc", "auprc")):
        area = metrics.roc_auc_score if metric.endswith("auroc") else metrics.average_precision_score
        if metric.startswith("de_"):
            return float(area(label != 2, 1 - prob[:, 2], sample_weight=weight))
        return float(area(label == 0, prob[:, 0] / prob[:, :2].sum(axis=1), sample_weight=weight))
    if metric == "brier":
        return float(np.average(((prob - np.eye(3)[label]) ** 2).sum(axis=1), weights=weight))
    if metric == "recall_up":
        return float(metrics.recall_score(label == 0, answer == 0, sample_weight=weight))
    if metric == "precision_up":
        return float(metrics.precision_score(label == 0, answer == 0, sample_weight=weight))
    if metric == "macro_f1":
        return float(metrics.f1_score(label, answer, labels=[0, 1, 2], average="macro", sample_weight=weight))
    by_name = {"accuracy": "accuracy_score", "balanced_accuracy": "balanced_accuracy_score", "mcc": "matthews_corrcoef"}
    return float(getattr(metrics, by_name[metric])(label, answer, sample_weight=weight))
