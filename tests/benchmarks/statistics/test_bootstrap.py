"""The pigeonhole bootstrap against repeating rows, and its weights against what Owen's scheme says of them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from benchmarks.statistics import bootstrap
from benchmarks.statistics.areas import per_gene_auroc
from benchmarks.statistics.bootstrap import per_gene_auroc_bootstrap, pigeonhole_means, pigeonhole_weights
from benchmarks.statistics.variance import two_way_se
from rewards import InputError


def make_items(seed: int, n_pert: int = 9, n_gene: int = 7, lines: int = 2) -> pd.DataFrame:
    """Items with coarse scores, so that many tie; some genes have one class, some a single positive."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"L{line}", f"P{p}", f"G{g}")
        for line in range(lines)
        for p in range(n_pert)
        for g in range(n_gene)
        if rng.random() < 0.7
    ]
    frame = pd.DataFrame(rows, columns=["line", "pert", "gene"])
    frame["label"] = rng.random(len(frame)) < frame["gene"].map({f"G{g}": g / n_gene for g in range(n_gene)})
    frame["score"] = np.round(rng.normal(size=len(frame)) + frame["label"], 0)
    return frame.sample(frac=1, random_state=seed, ignore_index=True)


def by_repeating_rows(items: pd.DataFrame, n_replicates: int, seed: int) -> list[float]:
    """Each gene drawn k times is k genes, each row in it there as often as its perturbation was drawn."""
    pert, perts = pd.factorize(items["pert"])
    genes = pd.Index(items["gene"].unique())
    values = []
    for pert_PR, gene_GR in pigeonhole_weights(len(perts), len(genes), n_replicates, seed):
        for pert_weight, gene_weight in zip(pert_PR.T, gene_GR.T, strict=True):
            total, n = 0.0, 0
            for (_, name), rows in items.groupby(["line", "gene"]):
                times = int(gene_weight[genes.get_loc(name)])
                drawn = rows.loc[np.repeat(rows.index, pert_weight[pert[rows.index]].astype(int))]
                if times and drawn["label"].nunique() == 2:
                    total += times * roc_auc_score(drawn["label"], drawn["score"])
                    n += times
            values.append(total / n if n else np.nan)
    return values


@pytest.mark.parametrize("seed", range(3))
def test_equals_repeating_rows(seed: int) -> None:
    items = make_items(seed)
    found = per_gene_auroc_bootstrap(
        items["label"], items["score"], items["gene"], items["pert"], 40, seed, line=items["line"]
    )
    assert found == pytest.approx(by_repeating_rows(items, 40, seed), abs=1e-6, nan_ok=True)


def test_replicate_without_a_gene_of_both_classes_is_nan() -> None:
    items = pd.DataFrame(
        {"line": "L", "pert": ["A", "B"], "gene": "G", "label": [True, False], "score": [1.0, 0.0]}
    )  # fmt: skip
    found = per_gene_auroc_bootstrap(items["label"], items["score"], items["gene"], items["pert"], 200)
    expected = by_repeating_rows(items, 200, 0)
    assert found == pytest.approx(expected, nan_ok=True)
    assert 0.3 < np.isnan(found).mean() < 0.7  # AA and BB are half of the draws


def test_same_seed_same_replicates_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items(4)
    arguments = (items["label"], items["score"], items["gene"], items["pert"], 300)
    first = per_gene_auroc_bootstrap(*arguments, seed=1)
    assert (first != per_gene_auroc_bootstrap(*arguments, seed=2)).any()
    monkeypatch.setattr(bootstrap, "THREADS", 1)
    assert (first == per_gene_auroc_bootstrap(*arguments, seed=1)).all()


def test_pairs_two_systems() -> None:
    items = make_items(5)
    a = per_gene_auroc_bootstrap(items["label"], items["score"], items["gene"], items["pert"], 200)
    reversed_a = per_gene_auroc_bootstrap(items["label"], -items["score"], items["gene"], items["pert"], 200)
    assert a + reversed_a == pytest.approx(1, abs=1e-6)


def test_centres_on_the_metric() -> None:
    items = make_items(6, n_pert=60, n_gene=40, lines=1)
    arguments = (items["label"], items["score"], items["gene"], items["pert"])
    replicates = per_gene_auroc_bootstrap(*arguments, 2000)
    value = per_gene_auroc(*arguments[:3])
    assert replicates.mean() == pytest.approx(value, abs=replicates.std() / 2)


def test_means_equal_the_product_of_weights() -> None:
    items = make_items(7)
    value = np.random.default_rng(0).normal(size=len(items))
    pert, perts = pd.factorize(items["pert"])
    gene, genes = pd.factorize(items["gene"])
    expected = []
    for pert_PR, gene_GR in pigeonhole_weights(len(perts), len(genes), 50, 3):
        weight_NR = pert_PR[pert] * gene_GR[gene]
        expected += list((weight_NR * value[:, None]).sum(axis=0) / weight_NR.sum(axis=0))
    assert pigeonhole_means(value, items["pert"], items["gene"], 50, 3) == pytest.approx(expected, abs=1e-12)


def test_spread_of_a_mean_is_owens_and_above_the_two_way_error() -> None:
    rng = np.random.default_rng(8)
    pert, gene = (a.ravel() for a in np.meshgrid(np.arange(60), np.arange(50)))
    value = rng.normal(size=3000) + rng.normal(size=60)[pert] * 0.3 + rng.normal(size=50)[gene] * 0.3
    spread = pigeonhole_means(value, pert, gene, 4000).std()
    two_way, _ = two_way_se((value - value.mean()) / len(value), pert, gene)
    # On a full grid: variance of perturbation means over P, of gene means over G, and the items' own a third time.
    psi = (value - value.mean()) / len(value)
    owen = sum((np.bincount(code, weights=psi) ** 2).sum() for code in (pert, gene)) + (psi**2).sum()
    assert spread == pytest.approx(np.sqrt(owen), rel=0.05)
    assert spread > two_way


def test_weights_are_counts_of_draws() -> None:
    chunks = list(pigeonhole_weights(5, 3, 100, 0))
    pert, gene = (np.concatenate([chunk[i] for chunk in chunks], axis=1) for i in (0, 1))
    assert (pert.shape, gene.shape) == ((5, 100), (3, 100))
    assert (pert.sum(axis=0) == 5).all()
    assert (gene.sum(axis=0) == 3).all()
    assert pert.mean(axis=1) == pytest.approx(1, abs=0.4)
    # Drawn independently: no replicate's genes follow from its perturbations.
    assert abs(np.corrcoef(pert[0], gene[0])[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 1, 2]}, "label of row 2 is .*2.*; use 0 and 1"),
        ({"label": [1, 1, 1]}, "no gene has items of both classes"),
        ({"score": [0.1, np.nan, 0.3]}, "score of row 1 is missing"),
        ({"score": [0.1, 0.2]}, "3 labels, .2,. scores"),
        ({"pert": ["A", None, "B"]}, "pert of row 1 is missing"),
        ({"gene": ["G", "G"]}, "3 items, 3 perturbations, 2 genes"),
        ({"line": ["L", "L"]}, "line is missing"),
        ({"n_replicates": 0}, "0 replicates; use at least 1"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "label": [0, 1, 0], "score": [0.1, 0.2, 0.3], "gene": ["G", "G", "G"], "pert": ["A", "B", "C"],
        "n_replicates": 5,
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        per_gene_auroc_bootstrap(**(arguments | change))


def test_no_items() -> None:
    empty: npt.NDArray[np.float64] = np.empty(0)
    with pytest.raises(InputError, match="no items"):
        pigeonhole_means(empty, empty, empty, 5)
