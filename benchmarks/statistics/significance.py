"""Paired comparison of two systems, with errors clustered by perturbation and by gene and training runs counted.

Many items share a perturbation or a gene, and a model's errors on such items are correlated. A test that treats items
as independent calls two equally good systems different far too often. Here every metric comes with the influence of
each item on it (metrics.py), and one routine turns influences into a variance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
import pandas as pd

from benchmarks.statistics.alignment import align, align_all, common_items
from benchmarks.statistics.arrays import Bools, Floats, PredictionArrays, prediction_arrays
from benchmarks.statistics.estimates import Estimate
from benchmarks.statistics.metrics import estimate, find_metric
from benchmarks.statistics.variance import ZERO_SE, Variance, add_seed_variance, two_way_variance
from rewards import InputError

# Estimates kept between comparisons of the same objects. Key: the system's id, the metric, the mask of items.
Memo: TypeAlias = dict[tuple[int, str, bytes], Estimate]

LEVEL: Final = 0.95
# z(0.975) + z(0.8): 80 of 100 benchmarks find a true difference of so many standard errors at 5 %.
DETECTABLE: Final = 2.801585
# Below this many perturbations or genes a cluster-robust variance is itself uncertain. For Cameron & Miller 2015
# (10.3368/jhr.50.2.317) "few" begins somewhere between 20 and 50 clusters; this is the lower end.
FEW_CLUSTERS: Final = 20


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; `low` and `high` are NaN where it is unknown, and `reason` says why."""

    low: float
    high: float
    se: float
    df: float
    n_perturbations: int
    n_genes: int
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same items, a minus b.

    Attributes:
        metric: its name.
        difference: value_a - value_b.
        low, high: 95 % confidence interval of the difference; NaN where it is unknown (`test` says why).
        p_value: two-sided, of the hypothesis that the systems are equal on new perturbations and genes (and, with
            several training runs, new runs); NaN where it is unknown.
        test: the test used and what it leaves out, in words.
        se: standard error of the difference.
        df: degrees of freedom of its t distribution.
        value_a, value_b: the metric of each, mean over training runs.
        n_items: items the metric is computed on.
        n_unscorable: items left out because one of the systems has only errors for them.
        n_missing: items left out because one of the systems does not have them; 0 unless `missing="drop"` (in a
            report, `pairwise`).
        n_perturbations, n_genes: clusters among `n_items`.
        n_seeds: training runs paired; 1 where training variance is unknown.
        effect_size: difference / (se sqrt(n_perturbations)), which is Cohen's d_z with the perturbation as the unit.
        minimum_detectable: the true difference that this test finds in 80 of 100 benchmarks of this size,
            2.8016 se (normal approximation).
        v_pert, v_gene, v_item, v_seed: parts of the variance; see `Variance`.
        unit: `gene` or `pert` where the metric is a mean over genes or perturbations.
        per_seed: the difference in each training run.
        p_same_items: p value of a plain paired t test over training runs. It answers another question: would new
            training runs differ on *these* items? NaN with fewer than two paired runs.
        p_holm: p value adjusted within a family of comparisons, by Holm's method or the one the caller chose; NaN
            where the comparison belongs to no family.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    se: float
    df: float
    value_a: float
    value_b: float
    n_items: int
    n_unscorable: int
    n_missing: int
    n_perturbations: int
    n_genes: int
    n_seeds: int
    effect_size: float
    minimum_detectable: float
    v_pert: float
    v_gene: float
    v_item: float
    v_seed: float
    unit: Literal["gene", "pert"] | None
    per_seed: tuple[float, ...]
    p_same_items: float
    p_holm: float = float("nan")


def confidence_interval(runs: PredictionArrays, found: Estimate, metric: str) -> Interval:
    """95 % confidence interval of one system's metric, within the metric's range.

    Args:
        runs: the predictions from which `found` was computed.
        found: the estimate.
        metric: its name, which gives its range.

    Returns:
        The interval. It has no bounds in these cases:
            - the metric has no value;
            - the items have fewer than two perturbations or fewer than two genes;
            - all influences are 0, since a standard error of 0 would claim too much.
    """
    lowest, highest = find_metric(metric).range
    interval, _, _ = _infer(runs, found)
    return replace(interval, low=max(interval.low, lowest), high=min(interval.high, highest))


def _infer(runs: PredictionArrays, found: Estimate) -> tuple[Interval, float, Variance]:
    """Interval of an estimate (a metric or a difference), p value of the hypothesis that it is 0, and its variance."""
    nan = float("nan")
    pert, gene = runs.pert.codes[found.rows], runs.gene.codes[found.rows]
    n_pert, n_gene = (int(np.count_nonzero(np.bincount(code))) for code in (pert, gene))
    unknown = Variance(nan, nan, nan, found.unit, nan, nan)

    def untold(reason: str) -> tuple[Interval, float, Variance]:
        return Interval(nan, nan, nan, nan, n_pert, n_gene, reason), nan, unknown

    if found.reason:
        return untold(found.reason)
    if found.no_interval:
        return untold(found.no_interval)
    if min(n_pert, n_gene) < 2:
        return untold(f"no interval from one {'perturbation' if n_pert < 2 else 'gene'}")
    parts = two_way_variance(found.psi, pert, gene, runs.pair[found.rows], found.unit, found.psi_unit)
    total, df = add_seed_variance(parts.of_items, parts.df, found.values)
    parts = replace(parts, seed=total - parts.of_items, df=df)
    se = float(np.sqrt(total))
    if se < ZERO_SE:
        return Interval(nan, nan, 0.0, df, n_pert, n_gene, "no variation between items"), nan, parts
    low, high, p_value = t_interval(found.value, se, df)
    return Interval(low, high, se, df, n_pert, n_gene), p_value, parts


def t_interval(value: float, se: float, df: float) -> tuple[float, float, float]:
    """95 % t interval of an estimate, and the two-sided p value of the hypothesis that it is 0.

    Args:
        value: the estimate.
        se: its standard error, above 0.
        df: degrees of freedom, above 0; need not be whole.

    Returns:
        Lower bound, upper bound, p value.
    """
    from scipy.special import stdtr, stdtrit  # scipy.stats.t calls them, and is thirty times as slow for one number

    half = float(stdtrit(df, 0.5 + LEVEL / 2)) * se
    return value - half, value + half, float(2 * stdtr(df, -abs(value) / se))


def compare(
    a: pd.DataFrame,
    b: pd.DataFrame,
    metric: str = "accuracy",
    *,
    missing: Literal["error", "drop"] = "error",
) -> Comparison:
    """Compare two systems on the same items, with errors clustered by perturbation and gene.

    `two_way_variance` turns the influence of each item on the difference into a variance. Training runs (`seed`) are
    treated as follows:

    - Both systems have several runs, with the same seeds: influences are averaged over runs, and s²/K is added, where
      s² is the variance of the K paired differences (Satterthwaite's degrees of freedom).
    - One system has one run and the other several: the one run is paired with each of the others.

    Args:
        a: predictions of the first system (see `benchmarks.statistics.arrays.prediction_arrays`).
        b: predictions of the second, on the same items.
        metric: name of one of `benchmarks.statistics.metrics.METRICS`; its entry says whether higher is better.
        missing: what to do with items that only one side has: `error` refuses them, `drop` leaves them out and counts
            them in `n_missing`.

    Returns:
        The comparison, a minus b.

    Raises:
        InputError: a frame is bad, items are missing on either side or described differently, the runs cannot be
            paired, or the metric or its standard error cannot be computed.
    """
    find_metric(metric)
    runs_a, runs_b = prediction_arrays(a, "a"), prediction_arrays(b, "b")
    n_missing = 0
    if missing == "drop":
        runs_a, runs_b, n_missing = common_items(runs_a, runs_b)
        if not len(runs_a.item_id):
            raise InputError("a and b share no item; compare predictions of the same items")
    elif missing != "error":
        raise InputError(f"missing: {missing!r}; use 'error' or 'drop'")
    runs_b = align(runs_b, runs_a, "b", "a")
    result = replace(compare_runs(runs_a, runs_b, metric), n_missing=n_missing)
    if np.isnan(result.difference):
        raise InputError(f"compare, {metric}: {result.test}")
    if min(result.n_perturbations, result.n_genes) < 2:
        raise InputError(f"compare, {metric}: {result.test}; compare on more items")
    return result


def compare_runs(a: PredictionArrays, b: PredictionArrays, metric: str, memo: Memo | None = None) -> Comparison:
    """Compare two systems already read and aligned; see `compare`.

    Args:
        a: the first system.
        b: the second system, aligned with `align`.
        metric: name of one of `METRICS`.
        memo: estimates to reuse between calls on the same objects; this call adds to it.

    Returns:
        The comparison; NaN where the metric or its error cannot be computed, with the reason in `test`.

    Raises:
        InputError: both have several training runs, and not the same ones.
    """
    of_a, of_b, difference = difference_of(a, b, metric, memo)
    interval, p_value, parts = _infer(a, difference)
    no_difference = difference.value == 0 and interval.se == 0
    return Comparison(
        metric=metric,
        difference=difference.value,
        low=0.0 if no_difference else interval.low,
        high=0.0 if no_difference else interval.high,
        p_value=1.0 if no_difference else p_value,
        test=_describe(a, b, interval, no_difference=no_difference),
        se=interval.se,
        df=interval.df,
        value_a=of_a.value,
        value_b=of_b.value,
        n_items=len(difference.rows),
        n_unscorable=int((~(a.scorable & b.scorable)).sum()),
        n_missing=0,
        n_perturbations=interval.n_perturbations,
        n_genes=interval.n_genes,
        n_seeds=max(len(a.seeds), len(b.seeds)),
        effect_size=difference.value / (interval.se * np.sqrt(interval.n_perturbations)) if interval.se else np.nan,
        minimum_detectable=DETECTABLE * interval.se,
        v_pert=parts.pert,
        v_gene=parts.gene,
        v_item=parts.item,
        v_seed=parts.seed,
        unit=parts.unit,
        per_seed=tuple(float(value) for value in difference.values),
        p_same_items=_paired_t(difference.values),
    )


def _paired_t(differences: Floats) -> float:
    """p value of the plain paired t test over training runs."""
    if len(differences) < 2 or np.ptp(differences) < ZERO_SE:
        return float("nan")
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0.0).pvalue)


def compare_pairs(
    systems: Mapping[str, PredictionArrays],
    pairs: Iterable[tuple[str, str]],
    metrics: Sequence[str],
    *,
    method: Literal["holm", "fdr_bh"] = "holm",
) -> list[tuple[str, str, Comparison]]:
    """Compare pairs of systems on each metric; the pairs of one metric are one family of tests.

    Args:
        systems: predictions by name, all aligned to one another (see `align_all`).
        pairs: names of systems, the first minus the second.
        metrics: names out of `METRICS`.
        method: how `p_holm` is adjusted; see `adjust`.

    Returns:
        `(name of a, name of b, comparison)`, metric by metric in the order given. Each pair is compared on the items
        that both have; `n_missing` counts the others.
    """
    memo: Memo = {}
    wanted = list(pairs)
    paired = [common_items(systems[a], systems[b]) for a, b in wanted]  # kept alive: the memo's keys are their ids
    rows: list[tuple[str, str, Comparison]] = []
    for metric in metrics:
        found = [replace(compare_runs(a, b, metric, memo), n_missing=missing) for a, b, missing in paired]
        adjusted = adjust([one.p_value for one in found], method)
        rows += [(a, b, replace(one, p_holm=p)) for (a, b), one, p in zip(wanted, found, adjusted, strict=True)]
    return rows


def compare_systems(
    systems: Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = ("accuracy",),
    *,
    against: str | None = None,
    method: Literal["holm", "fdr_bh"] = "holm",
    missing: Literal["error", "drop"] = "error",
) -> pd.DataFrame:
    """Compare one system with all others, or all pairs, as a table.

    Args:
        systems: predictions frames by name, all on the same items unless `missing` is `drop`.
        metrics: names out of `METRICS`; the comparisons of one metric are one family.
        against: the system with which each other one is compared (other minus `against`); None compares all pairs
            (later minus earlier).
        method: how p values are adjusted: `holm` for claims, `fdr_bh` for exploring; see `adjust`.
        missing: what to do with items that a system lacks: `error` refuses them, `drop` leaves them out of its pairs
            and counts them in `n_missing`. All pairs of a metric stay one family.

    Returns:
        One row per comparison: `a`, `b` and the attributes of `Comparison`. Where a pair's items do not give the
        metric or its error, the values are NaN and `test` has the reason.

    Raises:
        InputError: fewer than two systems, an unknown name or metric, or a frame that `compare` refuses.
    """
    names = list(systems)
    if len(names) < 2:
        raise InputError(f"compare_systems: {len(names)} system(s); pass two or more")
    if against is not None and against not in systems:
        raise InputError(f"compare_systems: no system {against!r}; use one of {', '.join(map(repr, names))}")
    _, runs = align_all({name: prediction_arrays(frame, name) for name, frame in systems.items()}, missing)
    if against is None:
        pairs = [(later, earlier) for at, later in enumerate(names) for earlier in names[:at]]
    else:
        pairs = [(name, against) for name in names if name != against]
    found = compare_pairs(runs, pairs, metrics, method=method)
    return pd.DataFrame([{"a": a, "b": b, **asdict(one)} for a, b, one in found])


def aa_checks(predictions: pd.DataFrame, metrics: Sequence[str]) -> list[Comparison]:
    """Compare a system with itself: the first half of each item's samples with the second half.

    Both halves come from the same model. A small p value is therefore a false alarm, or a fault in sampling or testing.

    Args:
        predictions: one system's predictions, with at least two samples of every item.
        metrics: names out of `METRICS`.

    Returns:
        One comparison per metric that can be tested, with `p_holm` adjusted over them. Empty where an item has only one
        sample.
    """
    if "sample" not in predictions:
        return []
    per_item = predictions.groupby(["seed", "item_id"] if "seed" in predictions else "item_id", observed=True)
    n_samples = int(per_item["sample"].size().min())
    if n_samples < 2:
        return []
    rank = per_item["sample"].rank(method="first")
    first = predictions[rank <= n_samples // 2]
    second = predictions[(rank > n_samples // 2) & (rank <= 2 * (n_samples // 2))]
    a = prediction_arrays(first, "first half")
    b = align(prediction_arrays(second, "second half"), a, "second half", "first half")
    found = [one for one in (compare_runs(a, b, metric) for metric in metrics) if not np.isnan(one.p_value)]
    return [replace(one, p_holm=p) for one, p in zip(found, adjust([one.p_value for one in found]), strict=True)]


def adjust(p_values: Sequence[float], method: Literal["holm", "fdr_bh"] = "holm") -> list[float]:
    """Adjust a family of p values; NaN stays NaN and does not count as a member.

    Gives the values of statsmodels' `multipletests`, which runs the garbage collector at each call: half a second with
    torch loaded. Sources: Holm 1979, Scandinavian Journal of Statistics 6:65; Benjamini and Hochberg as in SciPy.

    Args:
        p_values: of one family.
        method: `holm` bounds the chance of any false alarm, for claims. `fdr_bh` (Benjamini and Hochberg) bounds the
            expected share of false alarms among the alarms, for exploring.

    Returns:
        The adjusted values, in the order given.

    Raises:
        InputError: the method is unknown.
    """
    if method not in ("holm", "fdr_bh"):
        raise InputError(f"method: {method!r}; use 'holm' or 'fdr_bh'")
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if method == "fdr_bh" and tested.any():
        from scipy.stats import false_discovery_control

        adjusted[tested] = false_discovery_control(p[tested])
    elif tested.any():
        order = np.flatnonzero(tested)[np.argsort(p[tested])]
        steps = p[order] * np.arange(len(order), 0, -1)
        adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def difference_of(
    a: PredictionArrays, b: PredictionArrays, metric: str, memo: Memo | None = None
) -> tuple[Estimate, Estimate, Estimate]:
    """Return the estimates of a, of b, and of a minus b, on the items for which both have scorable answers.

    Raises:
        InputError: both have several training runs with different seeds.
    """
    if len(a.seeds) > 1 and len(b.seeds) > 1 and a.seeds != b.seeds:
        raise InputError(
            f"seed: runs {a.seeds} and {b.seeds} cannot be paired; train both with the same seeds, or pass one run"
        )
    use = a.scorable & b.scorable
    of_a, of_b = (_estimate_once(runs, metric, use, memo) for runs in (a, b))
    reasons = [f"{side}: {one.reason}" for side, one in (("a", of_a), ("b", of_b)) if one.reason]
    if not len(a.item_id):
        reasons = ["no item in common"]
    if reasons:
        return of_a, of_b, replace(of_a, values=np.empty(0), reason="; ".join(reasons))
    # A single run is paired with each of several (broadcast).
    values, psi = of_a.values - of_b.values, of_a.psi - of_b.psi
    psi_unit = None if of_a.psi_unit is None or of_b.psi_unit is None else of_a.psi_unit - of_b.psi_unit
    return of_a, of_b, replace(of_a, values=values, psi=psi, psi_unit=psi_unit)


def _estimate_once(runs: PredictionArrays, metric: str, use: Bools, memo: Memo | None) -> Estimate:
    if memo is None:
        return estimate(runs, find_metric(metric).task, metric, use)
    key = (id(runs), metric, use.tobytes())
    if key not in memo:
        memo[key] = _estimate_once(runs, metric, use, None)
    return memo[key]


def _describe(a: PredictionArrays, b: PredictionArrays, interval: Interval, *, no_difference: bool) -> str:
    if no_difference:
        return "no item differs"
    if interval.reason:
        return f"not tested: {interval.reason}"
    parts = ["two-way cluster-robust t (perturbation and gene)"]
    runs = sorted((len(a.seeds), len(b.seeds)))
    if runs[1] == 1:
        parts.append("one training run each: training variance unknown")
    elif runs[0] == 1:
        parts.append(f"one training run paired with each of {runs[1]}: the single run's training variance unknown")
    else:
        parts.append(f"{runs[1]} training runs, their variance included")
    if min(interval.n_perturbations, interval.n_genes) < FEW_CLUSTERS:
        parts.append(f"fewer than {FEW_CLUSTERS} perturbations or genes: the interval is itself uncertain")
    return "; ".join(parts)
