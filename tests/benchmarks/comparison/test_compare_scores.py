"""Comparisons of scores against statsmodels, SciPy, our own report's test, and cases worked by hand."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from lazily import Lazy

from benchmarks import compare, compare_score_systems, compare_scores
from rewards import LABELS, InputError

sm, multitest, stats = Lazy("statsmodels.api"), Lazy("statsmodels.stats.multitest"), Lazy("scipy.stats")
KEYS = ("difference", "low", "high", "p_value", "se", "df")


def scored(score: npt.ArrayLike, **columns: npt.ArrayLike) -> pd.DataFrame:
    values = np.asarray(score, dtype=np.float64)
    ids = [f"i{at}" for at in range(len(values))]
    return pd.DataFrame({"item_id": ids, "score": values} | {name: np.asarray(one) for name, one in columns.items()})


def drawn(n: int, seed: int = 0, n_pert: int = 25, n_gene: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two systems whose scores have effects of perturbation and gene."""
    rng = np.random.default_rng(seed)
    pert, gene = rng.integers(0, n_pert, n), rng.integers(0, n_gene, n)

    def one() -> pd.DataFrame:
        value = rng.normal(size=n) + rng.normal(size=n_pert)[pert] + rng.normal(size=n_gene)[gene]
        return scored(value, pert=[f"P{code}" for code in pert], gene=[f"G{code}" for code in gene])

    return one(), one()


def test_without_clusters_it_is_the_paired_t_test() -> None:
    a, b = drawn(50)
    found = compare_scores(a, b)
    expected = stats.ttest_rel(a["score"], b["score"])
    low, high = expected.confidence_interval()
    assert (found.difference, found.low, found.high, found.p_value, found.df) == pytest.approx(
        ((a["score"] - b["score"]).mean(), low, high, expected.pvalue, 49), rel=1e-9
    )
    assert "independent" in found.test
    assert found.clusters == {}


def test_with_one_key_it_is_the_cluster_robust_regression_on_a_constant() -> None:
    a, b = drawn(400)
    found = compare_scores(a, b, ["pert"])
    groups = pd.factorize(a["pert"])[0]
    fit = sm.OLS((a["score"] - b["score"]).to_numpy(), np.ones(400)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    expected = (fit.params[0], *fit.conf_int()[0], fit.pvalues[0], fit.bse[0], 24)
    assert [getattr(found, key) for key in KEYS] == pytest.approx(expected, rel=1e-9)
    assert found.clusters == {"pert": 25}


def test_with_two_keys_the_standard_error_is_that_of_two_way_clusters() -> None:
    a, b = drawn(600, seed=3)
    found = compare_scores(a, b, ["pert", "gene"])
    groups = np.column_stack([pd.factorize(a[key])[0] for key in ("pert", "gene")])
    fit = sm.OLS((a["score"] - b["score"]).to_numpy(), np.ones(600)).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    assert found.se == pytest.approx(fit.bse[0], rel=1e-9)
    assert (found.df, found.clusters) == (24, {"pert": 25, "gene": 60})
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(found.difference) / found.se, 24))
    assert found.minimum_detectable == pytest.approx(found.se * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)), rel=1e-5)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_right_or_wrong_as_a_score_agrees_with_the_report_s_test(n_seeds: int) -> None:
    rng, n = np.random.default_rng(5), 300
    items = pd.DataFrame(
        {
            "item_id": [f"k562|P{at % 12}|G{at % 31}|{at}" for at in range(n)],
            "cell_line": "k562",
            "pert": [f"P{at % 12}" for at in range(n)],
            "gene": [f"G{at % 31}" for at in range(n)],
            "label": rng.choice([str(label) for label in LABELS], n),
            "status": "answered",
        }
    )

    def system() -> pd.DataFrame:
        runs = [items.assign(seed=seed, answer=rng.choice(list(map(str, LABELS)), n)) for seed in range(n_seeds)]
        return pd.concat(runs, ignore_index=True)

    a, b = system(), system()
    a.loc[rng.random(len(a)) < 0.05, ["status", "answer"]] = ["error", None]
    a.loc[rng.random(len(a)) < 0.05, ["status", "answer"]] = ["incomplete", None]

    def as_scores(frame: pd.DataFrame) -> pd.DataFrame:
        outcome = frame["status"].map({"answered": "complete", "incomplete": "incomplete", "error": "unscorable"})
        right = (frame["answer"] == frame["label"]).astype(float)
        return frame[["item_id", "pert", "gene", "seed"]].assign(score=right, outcome=outcome)

    ours = compare(a, b)
    found = compare_scores(as_scores(a), as_scores(b), ["pert", "gene"])
    for key in (*KEYS, "value_a", "value_b", "minimum_detectable"):
        assert getattr(found, key) == pytest.approx(getattr(ours, key), abs=1e-12, rel=1e-12), key
    assert (found.n_items, found.n_unscorable, found.n_seeds) == (ours.n_items, ours.n_unscorable, n_seeds)
    assert found.per_seed == pytest.approx(ours.per_seed)
    assert found.clusters == {"pert": ours.n_perturbations, "gene": ours.n_genes}


def test_epochs_of_an_item_are_averaged_and_do_not_make_more_items() -> None:
    once_a, once_b = scored([1, 0.5, 0, 1]), scored([0, 0.5, 1, 0.5])
    twice = pd.concat([once_a.assign(score=[1, 1, 0, 1]), once_a.assign(score=[1, 0, 0, 1])])
    assert compare_scores(twice, once_b) == compare_scores(once_a, once_b)


def test_an_unscorable_epoch_is_left_out_and_an_item_without_score_too() -> None:
    a = pd.concat([scored([1, 0, 1, 0]), scored([0, 0, 1, 1]).assign(outcome="unscorable")])
    a.loc[(a["item_id"] == "i3").to_numpy(), "score"] = np.nan
    found = compare_scores(a.fillna({"outcome": "complete"}), scored([0, 0, 0, 0]))
    assert (found.value_a, found.n_items, found.n_unscorable) == (pytest.approx(2 / 3), 3, 1)


def test_an_incomplete_row_keeps_its_score() -> None:
    a = scored([1, 0, 1, 0], outcome=["incomplete", "incomplete", "complete", "complete"])
    found = compare_scores(a, scored([0, 0, 0, 0]))
    assert (found.value_a, found.n_items) == (0.5, 4)


def test_rows_in_another_order_are_paired_by_item() -> None:
    a, b = drawn(100)
    assert compare_scores(a, b.sample(frac=1, random_state=1), ["pert"]) == compare_scores(a, b, ["pert"])


def test_pairs_are_adjusted_together_by_holm() -> None:
    a, b = drawn(300)
    c = b.assign(score=b["score"] - 0.4)
    found = compare_score_systems({"a": a, "b": b, "c": c}, ["pert"])
    assert [(one.a, one.b) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    p = [one.p_value for one in found]
    # b minus c is the same for all items, so it cannot be tested.
    assert np.isnan(p[2]) and "no variation" in found[2].test
    assert [one.p_holm for one in found[:2]] == pytest.approx(multitest.multipletests(p[:2], method="holm")[1])
    against = compare_score_systems({"a": a, "b": b, "c": c}, ["pert"], against="b")
    assert [(one.a, one.b) for one in against] == [("a", "b"), ("c", "b")]


def test_equal_scores_are_no_difference() -> None:
    a, _ = drawn(30)
    found = compare_scores(a, a, ["pert", "gene"])
    assert (found.difference, found.low, found.high, found.p_value, found.test) == (0, 0, 0, 1, "no item differs")
    assert np.isnan(found.minimum_detectable)  # what such a test can detect is not known where nothing varies


def test_differences_that_cancel_within_each_cluster_prove_nothing() -> None:
    a = scored([1, 0, 1, 0], group=["x", "x", "y", "y"])
    found = compare_scores(a, a.assign(score=[0, 1, 0, 1]), ["group"])
    assert np.isnan(found.p_value) and found.test == "not tested: no variation between group"


def test_a_single_cluster_gives_no_interval() -> None:
    a, b = drawn(30, n_pert=1)
    found = compare_scores(a, b, ["pert", "gene"])
    assert np.isnan(found.low) and found.test == "not tested: no interval from one pert"


def test_items_of_one_system_are_refused_or_left_out() -> None:
    a, b = drawn(40)
    with pytest.raises(InputError, match=r"b lacks 5 of a's items, e\.g\. 'i0'"):
        compare_scores(a, b.iloc[5:])
    with pytest.raises(InputError, match=r"a lacks 5 of b's items"):
        compare_scores(a.iloc[5:], b)
    found = compare_scores(a.iloc[3:], b.iloc[:-5], missing="drop")
    assert (found.n_items, found.n_missing) == (32, 8)
    with pytest.raises(InputError, match="share no item"):
        compare_scores(a, b.assign(item_id=b["item_id"] + "x"), missing="drop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="score"), "no column 'score'"),
        (lambda frame: frame.drop(columns="pert"), "no column 'pert'"),
        (lambda frame: frame.assign(score="high"), "not numbers"),
        (lambda frame: frame.assign(score=np.inf), "infinite"),
        (lambda frame: frame.assign(pert=None), "pert is missing"),
        (lambda frame: frame.assign(pert="P0"), "has another pert in b than in a"),
        (lambda frame: frame.assign(content="other"), "asks something else in b than in a; .*--id id; .*--id doc_id"),
        (lambda frame: frame.assign(outcome="fine"), "outcome is none of"),
        (lambda frame: pd.concat([frame, frame.assign(pert="P0")]), "another pert in an earlier row"),
        (lambda frame: frame.assign(seed=[0] * 20 + [1] * 20), "lacks item"),
        (lambda frame: frame.iloc[:0], "no rows"),
    ],
)
def test_a_bad_frame_is_refused(change, message) -> None:
    a, b = drawn(40)
    with pytest.raises(InputError, match=message):
        compare_scores(a.assign(content="this"), change(b), ["pert"])


def test_more_than_two_keys_or_one_twice_are_refused() -> None:
    a, b = drawn(40)
    for keys in (["pert", "gene", "item_id"], ["pert", "pert"], "pert"):
        with pytest.raises(InputError, match="one or two"):
            compare_scores(a, b, keys)


def test_runs_with_other_seeds_cannot_be_paired() -> None:
    a, b = drawn(40)
    two = pd.concat([a.assign(seed=0), a.assign(seed=1)])
    three = pd.concat([b.assign(seed=0), b.assign(seed=2)])
    with pytest.raises(InputError, match="cannot be paired"):
        compare_scores(two, three)
    assert compare_scores(two, b).n_seeds == 2
