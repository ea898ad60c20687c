"""Paired comparison of two systems, with errors clustered by perturbation and by gene and training runs counted.

Items share a perturbation and a gene, and a model errs on such items together; a test that takes them as independent
calls two equally good systems different far too often. Every metric here comes with the influence of each item on it
(metrics.py), and one routine turns influences into a variance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.metrics import RANGE, Estimate, estimate, task_of
from benchmarks.prediction_arrays import Bools, PredictionArrays, prediction_arrays
from rewards import InputError

# Estimates kept between comparisons of the same objects, by system, metric and items.
Memo: TypeAlias = dict[tuple[int, str, bytes], Estimate]

LEVEL: Final = 0.95
# Below this many perturbations or genes a cluster-robust variance is itself uncertain: 20 is the low end of what
# Cameron & Miller 2015 (10.3368/jhr.50.2.317) call few.
FEW_CLUSTERS: Final = 20
# Influences are of order 1/n; what rounding leaves of a variance that is 0 lies far below this.
_ZERO_SE: Final = 1e-13


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; `low` and `high` are NaN, with a reason, where it cannot be told."""

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
        low, high: 95 % confidence interval of the difference; NaN where it cannot be told (see `test`).
        p_value: two-sided, of the hypothesis that the systems are equal on new perturbations and genes (and, with
            several training runs, new runs); NaN likewise.
        test: how it was tested and what it leaves out, in words.
        se: standard error of the difference.
        df: degrees of freedom of its t distribution.
        value_a, value_b: the metric of each, mean over training runs.
        n_items: items the metric is computed on.
        n_unscorable: items left out because one of the systems has only errors for them.
        n_perturbations, n_genes: clusters among `n_items`.
        n_seeds: training runs paired; 1 where training variance is unknown.
        p_holm: p value adjusted by Holm's method within a family of comparisons; NaN outside one.
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
    n_perturbations: int
    n_genes: int
    n_seeds: int
    p_holm: float = float("nan")


def two_way_se(
    psi: npt.ArrayLike, pert: npt.ArrayLike, gene: npt.ArrayLike, psi_gene: npt.ArrayLike | None = None
) -> tuple[float, int]:
    """Standard error of an estimate whose influences are correlated within perturbations and within genes.

    V = V_pert + V_gene - V_item, each the sum over clusters of the squared sum of influences, times G/(G - 1), and
    V at least the largest of the three (Cameron, Gelbach & Miller 2011, 10.1198/jbes.2010.07136; MacKinnon, Nielsen
    & Webb, arXiv 2406.08880). Assumes that items which share neither perturbation nor gene are independent. A pair
    of perturbation and gene that recurs in several lines is counted as so many items, which errs on the wide side.

    Args:
        psi: (n,) influence of each item; sums to 0.
        pert: (n,) perturbation of each item, any hashable value.
        gene: (n,) gene of each item.
        psi_gene: (n,) influences for the sums over genes, where they differ.

    Returns:
        The standard error, and the degrees of freedom, the smaller number of clusters less 1.

    Raises:
        InputError: there are not two perturbations and two genes at least, or lengths differ.
    """
    influence = np.asarray(psi, dtype=np.float64)
    for_genes = influence if psi_gene is None else np.asarray(psi_gene, dtype=np.float64)
    pert_code, perts = pd.factorize(np.asarray(pert))
    gene_code, genes = pd.factorize(np.asarray(gene))
    if not len(influence) == len(for_genes) == len(pert_code) == len(gene_code):
        raise InputError(
            f"two_way_se: {len(influence)} influences, {len(pert_code)} perturbations, {len(gene_code)} genes; "
            "pass one each"
        )
    fewest = min(len(perts), len(genes))
    if fewest < 2:
        raise InputError(f"two_way_se: {len(perts)} perturbation(s), {len(genes)} gene(s); two of each are the least")
    v_pert = _cluster_variance(np.bincount(pert_code, weights=influence))
    v_gene = _cluster_variance(np.bincount(gene_code, weights=for_genes))
    v_item = _cluster_variance(influence)
    return float(np.sqrt(max(v_pert + v_gene - v_item, v_pert, v_gene, v_item))), fewest - 1


def _cluster_variance(sums: npt.NDArray[Any]) -> float:
    return float(sums @ sums) * len(sums) / (len(sums) - 1)


def add_seed_variance(variance: float, df: float, values: npt.ArrayLike) -> tuple[float, float]:
    """Add the variance between training runs to the variance over items.

    Args:
        variance: of the mean over runs, as far as it comes from the items.
        df: its degrees of freedom.
        values: (K,) the metric, or the paired difference, in each training run; its variance over K is added.

    Returns:
        The sum, and its degrees of freedom after Satterthwaite 1946 (10.2307/3002019). With one run, the arguments.
    """
    per_run = np.asarray(values, dtype=np.float64)
    n_runs = len(per_run)
    if n_runs < 2:
        return variance, float(df)
    between = float(per_run.var(ddof=1)) / n_runs
    if variance + between == 0:
        return 0.0, float(df)
    return variance + between, (variance + between) ** 2 / (variance**2 / df + between**2 / (n_runs - 1))


def confidence_interval(runs: PredictionArrays, found: Estimate, metric: str) -> Interval:
    """95 % confidence interval of one system's metric, within the metric's range.

    Args:
        runs: the predictions `found` was computed from.
        found: the estimate.
        metric: its name, for its range.

    Returns:
        The interval; without bounds where the metric has no value, there are not two perturbations and two genes,
        or no item's answer differs from the others' (an error of 0 would say more than is known).
    """
    bounds = RANGE.get(metric, (0.0, 1.0))
    interval, _ = _infer(runs, found)
    return replace(interval, low=max(interval.low, bounds[0]), high=min(interval.high, bounds[1]))


def _infer(runs: PredictionArrays, found: Estimate) -> tuple[Interval, float]:
    """Interval of an estimate (a metric or a difference of two) and p value of its being 0."""
    nan = float("nan")
    pert, gene = runs.pert.codes[found.rows], runs.gene.codes[found.rows]
    n_pert, n_gene = len(np.unique(pert)), len(np.unique(gene))
    if found.reason:
        return Interval(nan, nan, nan, nan, n_pert, n_gene, found.reason), nan
    if min(n_pert, n_gene) < 2:
        reason = f"no interval from one {'perturbation' if n_pert < 2 else 'gene'}"
        return Interval(nan, nan, nan, nan, n_pert, n_gene, reason), nan
    se, df = two_way_se(found.psi, pert, gene, found.psi_gene)
    variance, df_total = add_seed_variance(se**2, df, found.values)
    se = float(np.sqrt(variance))
    if se < _ZERO_SE:
        return Interval(nan, nan, 0.0, df_total, n_pert, n_gene, "no variation between items"), nan
    from scipy.stats import t as student

    half = float(student.ppf(0.5 + LEVEL / 2, df_total)) * se
    p_value = float(2 * student.sf(abs(found.value) / se, df_total))
    return Interval(found.value - half, found.value + half, se, df_total, n_pert, n_gene), p_value


def compare(a: pd.DataFrame, b: pd.DataFrame, metric: str = "accuracy") -> Comparison:
    """Compare two systems on the same items, with errors clustered by perturbation and gene.

    The influence of each item on the difference goes through `two_way_se`. With several training runs (`seed`) on
    both sides, the same ones, influences are averaged over runs and s²/K is added, s² being the variance of the K
    paired differences, with Satterthwaite's degrees of freedom. A system with one run against several is repeated.
    The per-gene AUROC's test is mildly liberal (up to 8 % false positives at 5 % where genes have single positives).

    Args:
        a: predictions of the first system (see `benchmarks.prediction_arrays.prediction_arrays`).
        b: predictions of the second, on the same items.
        metric: one of `benchmarks.metrics.METRICS`. Lower is better for `brier`, higher for the others.

    Returns:
        The comparison, a minus b.

    Raises:
        InputError: a frame is bad, items are missing on either side or described differently, the runs cannot be
            paired, or the metric cannot be computed or its error not told on these items.
    """
    task_of(metric)
    runs_a = prediction_arrays(a, "a")
    runs_b = align(prediction_arrays(b, "b"), runs_a, "b", "a")
    result = compare_runs(runs_a, runs_b, metric)
    if np.isnan(result.difference):
        raise InputError(f"compare, {metric}: {result.test}")
    if min(result.n_perturbations, result.n_genes) < 2:
        raise InputError(f"compare, {metric}: {result.test}; compare on more items")
    return result


def align(runs: PredictionArrays, to: PredictionArrays, name: str, name_to: str) -> PredictionArrays:
    """Return `runs` with its items in the order of `to`.

    Raises:
        InputError: the items are not the same, or one of them has another label, line, perturbation or gene.
    """
    at = runs.item_id.get_indexer(to.item_id)
    missing = np.flatnonzero(at < 0)
    if len(missing) == len(at):
        raise InputError(
            f"{name} and {name_to} share no item (e.g. {runs.item_id[0]!r}, {to.item_id[0]!r}); "
            "compare predictions of the same items"
        )
    if missing.size:
        raise InputError(
            f"{name} lacks {missing.size} of {name_to}'s items, e.g. {to.item_id[missing[0]]!r}; "
            "evaluate both on the same items"
        )
    if len(runs.item_id) > len(at):
        extra = runs.item_id[~runs.item_id.isin(to.item_id)]
        raise InputError(
            f"{name_to} lacks {len(extra)} of {name}'s items, e.g. {extra[0]!r}; evaluate both on the same items"
        )
    aligned = runs.take(at)
    pairs: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {"label": (aligned.label, to.label)}
    for column in ("line", "pert", "gene"):
        pairs[column] = (np.asarray(getattr(aligned, column)), np.asarray(getattr(to, column)))
    for column, (ours, theirs) in pairs.items():
        differing = np.flatnonzero(ours != theirs)
        if differing.size:
            item = to.item_id[differing[0]]
            raise InputError(f"item {item!r} has another {column} in {name} than in {name_to}; use one set of labels")
    # Equal by now; one set of codes lets influences of both be clustered together.
    return replace(aligned, line=to.line, pert=to.pert, gene=to.gene)


def compare_runs(a: PredictionArrays, b: PredictionArrays, metric: str, memo: Memo | None = None) -> Comparison:
    """Compare two systems already read and aligned; see `compare`.

    Args:
        a: the first system.
        b: the second, aligned to it by `align`.
        metric: one of `METRICS`.
        memo: estimates to reuse between calls on the same objects; filled here.

    Returns:
        The comparison; NaN, with the reason as its `test`, where the metric or its error cannot be told.

    Raises:
        InputError: both have several training runs, and not the same ones.
    """
    if len(a.seeds) > 1 and len(b.seeds) > 1 and a.seeds != b.seeds:
        raise InputError(
            f"seed: runs {a.seeds} and {b.seeds} cannot be paired; train both with the same seeds, or pass one run"
        )
    task = task_of(metric)
    use = a.scorable & b.scorable
    of_a, of_b = (_estimate_once(runs, task, metric, use, memo) for runs in (a, b))
    difference = _difference(of_a, of_b)
    interval, p_value = _infer(a, difference)
    n_seeds = max(len(a.seeds), len(b.seeds))
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
        n_unscorable=int((~use).sum()),
        n_perturbations=interval.n_perturbations,
        n_genes=interval.n_genes,
        n_seeds=n_seeds,
    )


def compare_pairs(
    systems: Mapping[str, PredictionArrays], pairs: Iterable[tuple[str, str]], metrics: Sequence[str]
) -> list[tuple[str, str, Comparison]]:
    """Compare pairs of systems on each metric, with Holm's adjustment over the pairs of one metric.

    Args:
        systems: predictions by name, all aligned to one another.
        pairs: names of systems, the first minus the second.
        metrics: names out of `METRICS`.

    Returns:
        `(name of a, name of b, comparison)`, metric by metric in the order given.
    """
    memo: Memo = {}
    wanted = list(pairs)
    rows: list[tuple[str, str, Comparison]] = []
    for metric in metrics:
        found = [compare_runs(systems[a], systems[b], metric, memo) for a, b in wanted]
        adjusted = holm([one.p_value for one in found])
        rows += [(a, b, replace(one, p_holm=p)) for (a, b), one, p in zip(wanted, found, adjusted, strict=True)]
    return rows


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust a family of p values by Holm's method (statsmodels `multipletests`); NaN stays NaN and is no member."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

        adjusted[tested] = multipletests(p[tested], method="holm")[1]
    return [float(value) for value in adjusted]


def _estimate_once(runs: PredictionArrays, task: str, metric: str, use: Bools, memo: Memo | None) -> Estimate:
    if memo is None:
        return estimate(runs, task, metric, use)
    key = (id(runs), metric, use.tobytes())
    if key not in memo:
        memo[key] = estimate(runs, task, metric, use)
    return memo[key]


def _difference(a: Estimate, b: Estimate) -> Estimate:
    """The estimate of a minus b; both are computed on the same items. One run against several is repeated."""
    reasons = [f"{side}: {one.reason}" for side, one in (("a", a), ("b", b)) if one.reason]
    if reasons:
        return replace(a, values=np.empty(0), reason="; ".join(reasons))
    return replace(a, values=a.values - b.values, psi=a.psi - b.psi, psi_gene=a.psi_gene - b.psi_gene)


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
        parts.append(f"{runs[1]} training runs against one repeated: the one's training variance unknown")
    else:
        parts.append(f"{runs[1]} training runs, their variance included")
    if min(interval.n_perturbations, interval.n_genes) < FEW_CLUSTERS:
        parts.append(f"fewer than {FEW_CLUSTERS} perturbations or genes: the interval is itself uncertain")
    return "; ".join(parts)
