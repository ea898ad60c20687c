"""Tests beside the default one of `compare`: two checks of it, and two that take items as independent.

Each replaces p value, interval and standard error of a comparison, and says in `test` what it leaves out.
"""

from dataclasses import replace
from typing import Final, Literal

import numpy as np

from benchmarks.statistics.arrays import NONE, UP, Floats, PredictionArrays
from benchmarks.statistics.bootstrap import per_gene_auroc_bootstrap, pigeonhole_means
from benchmarks.statistics.metrics import Estimate, task_of, task_score
from benchmarks.statistics.significance import LEVEL, Comparison, difference_of
from rewards import InputError

# A difference of these is the mean over items of a difference per item.
MEANS: Final = ("accuracy", "brier", "recall_up", "recall_down", "recall_none")
N_RESAMPLES: Final = 9_999
SEED: Final = 0
_WARNING: Final = "takes items as independent, which on PerturbQA they are not: not for claims"


def retest(
    result: Comparison,
    a: PredictionArrays,
    b: PredictionArrays,
    test: Literal["sign_flip", "pigeonhole", "mcnemar", "iid"],
) -> Comparison:
    """Test a comparison in another way.

    - `sign_flip`: the sum of differences within each perturbation changes sign at random (SciPy's
      `permutation_test`, exact where 2^P is at most 9,999). For means over items. Clusters on perturbations only;
      gives no interval.
    - `pigeonhole`: perturbations and genes resampled independently (Owen 2007, 10.1214/07-AOAS122), 9,999 times;
      percentile interval. Conservative. Means of AUROCs are computed anew in each replicate, other metrics through
      their influences.
    - `mcnemar`: exact binomial test on discordant items (statsmodels). Accuracy, one training run each; no interval.
    - `iid`: t test with one item as the unit.

    None of them includes the variance between training runs.

    Args:
        result: from `benchmarks.statistics.significance.compare_runs`.
        a: the first system.
        b: the second, aligned to it.
        test: one of the above.

    Returns:
        The comparison with the other test's `p_value`, `low`, `high`, `se`, `df` and `test`.

    Raises:
        InputError: the test is unknown or does not go with the metric.
    """
    _, _, found = difference_of(a, b, result.metric)
    if test == "sign_flip":
        return _sign_flip(result, a, found)
    if test == "pigeonhole":
        return _pigeonhole(result, a, b, found)
    if test == "mcnemar":
        return _mcnemar(result, a, b, found)
    if test == "iid":
        return _iid(result, found)
    raise InputError(f"test: {test!r}; use two_way, sign_flip, pigeonhole, mcnemar or iid")


def _tested(result: Comparison, p_value: float, se: float, test: str, low: float, high: float, df: float) -> Comparison:
    # What rests on the two-way standard error goes with it.
    nan = float("nan")
    return replace(
        result, p_value=p_value, se=se, low=low, high=high, df=df, test=test, effect_size=nan, minimum_detectable=nan
    )


def _refuse_unless_mean(result: Comparison, test: str) -> None:
    if result.metric not in MEANS:
        raise InputError(f"test: {test} needs a mean over items ({', '.join(MEANS)}), not {result.metric}")


def _sign_flip(result: Comparison, a: PredictionArrays, found: Estimate) -> Comparison:
    from scipy.stats import permutation_test

    _refuse_unless_mean(result, "sign_flip")
    code = np.unique(a.pert.codes[found.rows], return_inverse=True)[1]
    sums = np.bincount(code, weights=found.psi + found.value / len(found.rows))
    tested = permutation_test(
        (sums,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        n_resamples=N_RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(SEED),
    )
    text = "sign-flip permutation over perturbations; genes and training runs not counted, no interval"
    nan = float("nan")
    return _tested(result, float(tested.pvalue), nan, text, nan, nan, nan)


def _pigeonhole(result: Comparison, a: PredictionArrays, b: PredictionArrays, found: Estimate) -> Comparison:
    if found.unit is None:
        pert, gene = a.pert.codes[found.rows], a.gene.codes[found.rows]
        values = found.value + found.psi * len(found.rows)
        replicates = pigeonhole_means(values, pert, gene, N_RESAMPLES, SEED)
    else:
        replicates = _unit_replicates(a, found, result.metric) - _unit_replicates(b, found, result.metric)
    if np.isnan(replicates).any():
        raise InputError(
            f"test: pigeonhole, {result.metric}: {int(np.isnan(replicates).sum())} of {len(replicates)} replicates "
            "have no value; compare on more items"
        )
    tail = (1 - LEVEL) / 2
    low, high = (float(value) for value in np.quantile(replicates, (tail, 1 - tail)))
    # One is added so that no p value is 0 (Phipson & Smyth 2010, 10.2202/1544-6115.1585).
    below, above = (int((sign * replicates <= 0).sum()) + 1 for sign in (1, -1))
    p_value = min(1.0, 2 * min(below, above) / (len(replicates) + 1))
    text = "pigeonhole bootstrap over perturbations and genes (conservative); training runs not counted"
    return _tested(result, p_value, float(replicates.std(ddof=1)), text, low, high, float("nan"))


def _unit_replicates(runs: PredictionArrays, found: Estimate, metric: str) -> Floats:
    rows = found.rows
    of_gene, of_pert = runs.gene.codes[rows], runs.pert.codes[rows]
    inner, outer = (of_gene, of_pert) if found.unit == "gene" else (of_pert, of_gene)
    replicates = []
    for prob in runs.prob:
        task = task_of(metric)
        positive = runs.label[rows] != NONE if task == "de" else runs.label[rows] == UP
        score = task_score(prob[rows], task)
        if np.isnan(score).any():
            raise InputError(f"test: pigeonhole, {metric}: {int(np.isnan(score).sum())} items have no score")
        replicates.append(
            per_gene_auroc_bootstrap(positive, score, inner, outer, N_RESAMPLES, SEED, line=runs.line.codes[rows])
        )
    return np.asarray(np.mean(replicates, axis=0))


def _mcnemar(result: Comparison, a: PredictionArrays, b: PredictionArrays, found: Estimate) -> Comparison:
    from statsmodels.stats.contingency_tables import mcnemar  # type: ignore[import-untyped]

    if result.metric != "accuracy" or len(a.seeds) > 1 or len(b.seeds) > 1:
        raise InputError("test: mcnemar needs accuracy and one training run each")
    right_a, right_b = ((runs.answer[0] == runs.label)[found.rows] for runs in (a, b))
    table = [[int((right_a & right_b).sum()), int((right_a & ~right_b).sum())],
             [int((~right_a & right_b).sum()), int((~right_a & ~right_b).sum())]]  # fmt: skip
    nan = float("nan")
    return _tested(result, float(mcnemar(table, exact=True).pvalue), nan, f"McNemar exact; {_WARNING}", nan, nan, nan)


def _iid(result: Comparison, found: Estimate) -> Comparison:
    from scipy.stats import t as student

    if found.unit is not None:
        raise InputError(f"test: iid does not go with {result.metric}, whose items are averaged within a {found.unit}")
    n = len(found.rows)
    se = float(np.sqrt((found.psi @ found.psi) * n / (n - 1)))
    if se == 0:
        return result
    half = float(student.ppf(0.5 + LEVEL / 2, n - 1)) * se
    p_value = float(2 * student.sf(abs(found.value) / se, n - 1))
    return _tested(
        result, p_value, se, f"t test over items; {_WARNING}", found.value - half, found.value + half, float(n - 1)
    )
