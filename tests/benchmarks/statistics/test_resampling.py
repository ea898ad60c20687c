"""The one test of `compare` against two others that need no formula for the variance.

Pigeonhole bootstrap (Owen 2007, 10.1214/07-AOAS122): perturbations and genes are drawn anew, apart, and an item weighs
the product of both counts. It is conservative: its variance counts an item's own noise up to three times. Sign flips:
what each perturbation adds to a difference of equal systems is as likely to have the other sign.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from lazily import Lazy

from benchmarks.statistics.areas import per_gene_auroc
from benchmarks.statistics.arrays import PredictionArrays, prediction_arrays
from benchmarks.statistics.estimates import Estimate, task_score
from benchmarks.statistics.significance import compare, difference_of
from rewards import LABELS

stats, sk = Lazy("scipy.stats"), Lazy("sklearn.metrics")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

NAMES = [str(label) for label in LABELS]
CASES = {case["id"]: case for case in json.loads(Path(__file__).with_name("stats_cases.json").read_text())["cases"]}


def counts_drawn(n: int, n_replicates: int, rng: np.random.Generator) -> Floats:
    """(n, R) how often each of n clusters is drawn."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_replicates).T.astype(np.float64)


def drawn(pert: Ints, gene: Ints, n_replicates: int, seed: int) -> tuple[Floats, Floats]:
    """(P, R) and (G, R); the same seed draws the same, which pairs the replicates of two systems."""
    rng = np.random.default_rng(seed)
    pert_PR, gene_GR = (counts_drawn(int(code.max()) + 1, n_replicates, rng) for code in (pert, gene))
    return pert_PR, gene_GR


def means(values: Floats, pert: Ints, gene: Ints, n_replicates: int = 4000, seed: int = 0) -> Floats:
    """(R,) weighted mean of the items' values in each replicate."""
    pert_PR, gene_GR = drawn(pert, gene, n_replicates, seed)
    weight_NR = pert_PR[pert] * gene_GR[gene]
    return np.asarray((values @ weight_NR) / weight_NR.sum(axis=0))


def mean_aurocs(
    positive: npt.NDArray[np.bool_], score: Floats, unit: Ints, outer: Ints, n_replicates: int = 4000, seed: int = 0
) -> Floats:
    """(R,) mean AUROC within units (genes, say) in each replicate, over the units that keep both classes."""
    outer_PR, unit_GR = drawn(outer, unit, n_replicates, seed)
    total, n = np.zeros(n_replicates), np.zeros(n_replicates)
    for at, unit_R in enumerate(unit_GR):
        one, other = (np.flatnonzero((unit == at) & (positive == wanted)) for wanted in (True, False))
        wins = (score[one][:, None] > score[other]) + 0.5 * (score[one][:, None] == score[other])
        one_R, other_R = outer_PR[outer[one]], outer_PR[outer[other]]
        pairs = one_R.sum(axis=0) * other_R.sum(axis=0)
        weight = np.where(pairs > 0, unit_R, 0)
        total += weight * (one_R * (wins @ other_R)).sum(axis=0) / np.maximum(pairs, 1)
        n += weight
    return np.divide(total, n, out=np.full(n_replicates, np.nan), where=n > 0)


def sign_flip_p(difference: Floats, pert: Ints) -> float:
    """p value of the sum of differences, whose sums within perturbations change sign at random."""
    return float(
        stats.permutation_test(
            (np.bincount(pert, weights=difference),), lambda x, axis: x.sum(axis=axis), permutation_type="samples",
            vectorized=True, rng=np.random.default_rng(0),
        ).pvalue
    )  # fmt: skip


def grid(rng: np.random.Generator, n_pert: int, n_gene: int) -> pd.DataFrame:
    """Six in ten pairs of perturbations and genes, with labels."""
    frame = pd.DataFrame([(p, g) for p in range(n_pert) for g in range(n_gene)], columns=["pert", "gene"])
    frame = frame[rng.random(len(frame)) < 0.6].reset_index(drop=True)
    item_id = "rpe1|" + frame["pert"].astype(str) + "|" + frame["gene"].astype(str)
    return frame.assign(item_id=item_id, cell_line="rpe1", label=rng.choice(NAMES, len(frame), p=[0.25, 0.25, 0.5]))


def system(rng: np.random.Generator, items: pd.DataFrame, skill: float, by_gene: float = 0.5) -> pd.DataFrame:
    """Answers and probabilities whose errors go with the perturbation and, as strongly as asked, the gene."""
    label = items["label"].map(NAMES.index).to_numpy()
    of_pert, of_gene = (rng.normal(size=(items[one].nunique(), 3))[pd.factorize(items[one])[0]]
                        for one in ("pert", "gene"))  # fmt: skip
    logits = rng.normal(size=(len(items), 3)) + 0.5 * of_pert + by_gene * of_gene + skill * np.eye(3)[label]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return items.assign(
        answer=np.array(NAMES)[logits.argmax(axis=1)], status="answered",
        p_up=prob[:, 0], p_down=prob[:, 1], p_none=prob[:, 2],
    )  # fmt: skip


def replicates_of(a: PredictionArrays, b: PredictionArrays, found: Estimate, task: str) -> Floats:
    """Replicates of a difference: of a mean of AUROCs computed anew, of any other metric through its influences."""
    rows = found.rows
    pert, gene = (np.unique(one.codes[rows], return_inverse=True)[1] for one in (a.pert, a.gene))
    if found.unit is None:
        return means(found.value + found.psi * len(rows), pert, gene)
    unit, outer = (gene, pert) if found.unit == "gene" else (pert, gene)
    positive = a.label[rows] != 2 if task == "de" else a.label[rows] == 0
    of_a, of_b = (mean_aurocs(positive, task_score(one.prob[0][rows], task), unit, outer) for one in (a, b))
    return of_a - of_b


@pytest.mark.parametrize("metric", ["accuracy", "mcc", "de_auroc", "de_per_gene_auroc", "dir_per_perturbation_auroc"])
def test_pigeonhole_bootstrap_is_wider_and_centred_alike(metric: str) -> None:
    rng = np.random.default_rng(9)
    items = grid(rng, 30, 25)
    a, b = system(rng, items, 1.0), system(rng, items, 0.6)
    default = compare(a, b, metric)
    arrays = prediction_arrays(a), prediction_arrays(b)
    _, _, found = difference_of(*arrays, metric)
    replicates = replicates_of(*arrays, found, metric[:3].removesuffix("_"))
    spread = replicates.std(ddof=1)
    assert default.se < spread < 2.2 * default.se
    assert abs(replicates.mean() - default.difference) < spread
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert low < default.difference < high


def test_sign_flips_agree_where_errors_go_with_perturbations_alone() -> None:
    rng = np.random.default_rng(3)
    items = grid(rng, 60, 25)
    a, b = system(rng, items, 0.7, 0.0), system(rng, items, 0.6, 0.0)
    right_a, right_b = ((one["answer"] == one["label"]).to_numpy(dtype=np.float64) for one in (a, b))
    default = compare(a, b)
    assert 0.01 < default.p_value < 0.9
    flipped = sign_flip_p(right_a - right_b, pd.factorize(items["pert"])[0])
    assert flipped == pytest.approx(default.p_value, abs=0.05)


def test_sign_flips_worked_case() -> None:
    case = CASES["cluster_se_mean_diff"]
    found = sign_flip_p(np.array(case["inputs"]["d"], dtype=np.float64), np.array(case["inputs"]["pert"]))
    assert found == pytest.approx(case["expected"]["signflip_by_pert_exact_p"])


class TestPigeonhole:
    """The bootstrap itself."""

    def items(self, seed: int) -> dict[str, Any]:
        """Coarse scores, so that many tie; some genes have one class, some a single positive."""
        rng = np.random.default_rng(seed)
        pert, gene = np.divmod(rng.choice(63, 45, replace=False), 7)
        positive = rng.random(45) < gene / 7
        return {"positive": positive, "score": np.round(rng.normal(size=45) + positive), "unit": gene, "outer": pert}

    @pytest.mark.parametrize("seed", range(3))
    def test_equals_repeating_rows(self, seed: int) -> None:
        """Each gene drawn k times is k genes, each row in it there as often as its perturbation was drawn."""
        items = self.items(seed)
        frame = pd.DataFrame(items)
        expected = []
        pert_PR, gene_GR = drawn(items["outer"], items["unit"], 15, seed)
        for pert_P, gene_G in zip(pert_PR.T, gene_GR.T, strict=True):
            total, n = 0.0, 0
            for name, rows in frame.groupby("unit"):
                chosen = rows.loc[np.repeat(rows.index, pert_P[rows["outer"]].astype(int))]
                if chosen["positive"].nunique() == 2:
                    total += gene_G[name] * sk.roc_auc_score(chosen["positive"], chosen["score"])
                    n += int(gene_G[name])
            expected.append(total / n if n else np.nan)
        assert mean_aurocs(**items, n_replicates=15, seed=seed) == pytest.approx(expected, nan_ok=True)

    def test_centres_on_the_metric(self) -> None:
        rng = np.random.default_rng(6)
        pert, gene = np.divmod(rng.choice(2400, 1700, replace=False), 40)
        positive = rng.random(1700) < gene / 40
        score = np.round(rng.normal(size=1700) + positive)
        replicates = mean_aurocs(positive, score, gene, pert, 2000)
        assert replicates.mean() == pytest.approx(per_gene_auroc(positive, score, gene), abs=replicates.std() / 2)

    def test_spread_of_a_mean_is_owens(self) -> None:
        rng = np.random.default_rng(8)
        pert, gene = (code.ravel() for code in np.indices((60, 50)))
        value = rng.normal(size=3000) + rng.normal(size=60)[pert] * 0.3 + rng.normal(size=50)[gene] * 0.3
        # On a full grid: variance of perturbation means over P, of gene means over G, and the items' own a third time.
        psi = (value - value.mean()) / len(value)
        owen = sum((np.bincount(code, weights=psi) ** 2).sum() for code in (pert, gene)) + (psi**2).sum()
        assert means(value, pert, gene).std() == pytest.approx(np.sqrt(owen), rel=0.05)
