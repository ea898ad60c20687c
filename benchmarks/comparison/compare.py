"""Paired comparison of scores of any task, with errors clustered by one or two keys and training runs counted.

The rules are those of `benchmarks.statistics`: influences of items, `two_way_variance`, `add_seed_variance`, a t
interval and Holm's method. With one key both of its dimensions are that key. Without a key every item is a cluster of
its own, which gives the paired t test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import pandas as pd

from benchmarks.comparison.scores import ScoreArrays, align_scores, score_arrays
from benchmarks.statistics.arrays import Ints
from benchmarks.statistics.significance import DETECTABLE, FEW_CLUSTERS, adjust, t_interval
from benchmarks.statistics.variance import ZERO_SE, add_seed_variance, two_way_variance
from rewards import InputError

# The test of two systems that have the same score on every item.
NO_ITEM_DIFFERS: Final = "no item differs"


@dataclass(frozen=True)
class ScoreComparison:
    """Two systems' mean scores on the same items, a minus b.

    Attributes:
        a, b: names of the systems.
        difference: value_a - value_b.
        low, high: 95 % confidence interval; NaN where it is unknown (`test` says why).
        p_value: two-sided, of the hypothesis that the systems score equally on new clusters (and, with several
            training runs, new runs); NaN where it is unknown.
        se: standard error of the difference.
        df: degrees of freedom of its t distribution.
        n_items: items compared.
        clusters: number of clusters among these items, by key; empty without a key.
        value_a, value_b: mean score over items and training runs.
        n_unscorable: items left out because one of the systems has no score for them in a training run.
        n_missing: items left out because one of the systems does not have them.
        n_seeds: training runs paired; 1 where training variance is unknown.
        per_seed: the difference in each training run.
        minimum_detectable: the true difference that this test finds in 80 of 100 benchmarks of this size, 2.8016 se.
        test: the test used and what it leaves out, in words.
        p_holm: p value adjusted by Holm's method over all pairs compared together.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p_value: float
    se: float
    df: float
    n_items: int
    clusters: dict[str, int]
    value_a: float
    value_b: float
    n_unscorable: int
    n_missing: int
    n_seeds: int
    per_seed: tuple[float, ...]
    minimum_detectable: float
    test: str
    p_holm: float = float("nan")


def compare_scores(
    a: pd.DataFrame,
    b: pd.DataFrame,
    clusters: Sequence[str] = (),
    *,
    missing: Literal["error", "drop"] = "error",
) -> ScoreComparison:
    """Compare two systems' mean scores on the same items, of any task.

    Args:
        a: scores of the first system: `item_id`, `score`, the cluster keys; see `benchmarks.comparison.scores` for
            optional columns.
        b: scores of the second.
        clusters: up to two columns within whose values errors are correlated, such as `["pert", "gene"]`.
        missing: what to do with items that only one side has: `error` refuses them, `drop` leaves them out and counts
            them in `n_missing`.

    Returns:
        The comparison, a minus b; its `p_holm` is its `p_value`.

    Raises:
        InputError: a frame is bad, items differ, there are more than two keys, or training runs cannot be paired.
    """
    return compare_score_systems({"a": a, "b": b}, clusters, missing=missing)[0]


def compare_score_systems(
    systems: Mapping[str, pd.DataFrame],
    clusters: Sequence[str] = (),
    *,
    against: str | None = None,
    missing: Literal["error", "drop"] = "error",
) -> list[ScoreComparison]:
    """Compare several systems in pairs; all pairs are one family for Holm's method.

    Args:
        systems: frames of scores by name; see `compare_scores`.
        clusters: up to two cluster keys.
        against: the system that is subtracted from each other one; None compares all pairs, the earlier minus the
            later.
        missing: as in `compare_scores`.

    Returns:
        One comparison per pair.

    Raises:
        InputError: see `compare_scores`; or fewer than two systems, or an unknown name.
    """
    if missing not in ("error", "drop"):
        raise InputError(f"missing: {missing!r}; use 'error' or 'drop'")
    check_clusters(clusters)
    arrays = {name: score_arrays(frame, clusters, name) for name, frame in systems.items()}
    return compare_arrays(arrays, against=against, drop=missing == "drop")


def check_clusters(clusters: Sequence[str]) -> None:
    """Refuse more than two cluster keys, or the same one twice."""
    if isinstance(clusters, str) or len(clusters) > 2 or len(set(clusters)) < len(clusters):
        raise InputError(f"clusters: {clusters!r}; name one or two different keys, as a list")


def compare_arrays(
    systems: Mapping[str, ScoreArrays], *, against: str | None = None, drop: bool = False
) -> list[ScoreComparison]:
    """Compare systems whose scores are read already; see `compare_score_systems`."""
    names = list(systems)
    if len(names) < 2:
        raise InputError(
            f"{len(names)} system to compare{f' ({names[0]})' if names else ''}; give two or more, each under its own "
            "name"
        )
    if against is not None and against not in systems:
        raise InputError(f"against: no system {against!r}; use one of {', '.join(map(repr, names))}")
    if against is None:
        pairs = [(one, other) for at, one in enumerate(names) for other in names[at + 1 :]]
    else:
        pairs = [(name, against) for name in names if name != against]
    found = [_compare(systems[a], systems[b], a, b, drop=drop) for a, b in pairs]
    adjusted = adjust([one.p_value for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def _compare(a: ScoreArrays, b: ScoreArrays, name_a: str, name_b: str, *, drop: bool) -> ScoreComparison:
    a, b, n_missing = align_scores(a, b, name_a, name_b, drop=drop)
    if len(a.seeds) > 1 and len(b.seeds) > 1 and a.seeds != b.seeds:
        raise InputError(
            f"training runs {a.seeds} of {name_a} and {b.seeds} of {name_b} cannot be paired; give both the same "
            "runs, or one of them a single run"
        )
    use = np.flatnonzero(a.scorable & b.scorable)
    # A single run is paired with each of several (broadcast).
    d = a.score[:, use] - b.score[:, use]
    per_seed = d.mean(axis=1) if use.size else np.empty(0)
    nan = float("nan")
    known = {key: values.codes[use].astype(np.intp) for key, values in a.clusters.items()}
    counts = {key: len(np.unique(code)) for key, code in known.items()}
    result = ScoreComparison(
        a=name_a,
        b=name_b,
        difference=float(per_seed.mean()) if use.size else nan,
        low=nan,
        high=nan,
        p_value=nan,
        se=nan,
        df=nan,
        n_items=len(use),
        clusters=counts,
        value_a=float(a.score[:, use].mean()) if use.size else nan,
        value_b=float(b.score[:, use].mean()) if use.size else nan,
        n_unscorable=len(a.item_id) - len(use),
        n_missing=n_missing,
        n_seeds=len(per_seed),
        per_seed=tuple(float(value) for value in per_seed),
        minimum_detectable=nan,
        test="",
    )
    few = next((key for key, count in {"item": len(use), **counts}.items() if count < 2), None)
    if few is not None:
        reason = "no item has a score of both" if not use.size else f"no interval from one {few}"
        return replace(result, test=f"not tested: {reason}")
    psi = (d.mean(axis=0) - d.mean()) / len(use)
    codes = list(known.values()) or [np.arange(len(use), dtype=np.intp)]
    parts = two_way_variance(psi, codes[0], codes[-1], _pair(codes[0], codes[-1]))
    total, df = add_seed_variance(parts.of_items, parts.df, per_seed)
    se = float(np.sqrt(total))
    if se < ZERO_SE:
        if not np.abs(d).max() > ZERO_SE:
            return replace(result, low=0.0, high=0.0, p_value=1.0, se=0.0, df=df, test=NO_ITEM_DIFFERS)
        return replace(result, se=0.0, df=df, test=f"not tested: no variation between {' or '.join(counts) or 'items'}")
    low, high, p_value = t_interval(result.difference, se, df)
    return replace(
        result, low=low, high=high, p_value=p_value, se=se, df=df, minimum_detectable=DETECTABLE * se,
        test=_describe(counts, len(use), (len(a.seeds), len(b.seeds))),
    )  # fmt: skip


def _pair(one: Ints, other: Ints) -> Ints:
    """(n,) code of each item's two clusters together."""
    return pd.factorize(one.astype(np.int64) * (int(other.max()) + 1) + other)[0].astype(np.intp)


def _describe(counts: Mapping[str, int], n_items: int, runs: tuple[int, int]) -> str:
    if not counts:
        parts = ["paired t over items: items are treated as independent"]
    else:
        ways = "two-way" if len(counts) == 2 else "one-way"
        parts = [f"{ways} cluster-robust t ({' and '.join(counts)})"]
    low, high = sorted(runs)
    if high == 1:
        parts.append("one training run each: training variance unknown")
    elif low == 1:
        parts.append(f"one training run paired with each of {high}: the single run's training variance unknown")
    else:
        parts.append(f"{high} training runs, their variance included")
    if min(counts.values(), default=n_items) < FEW_CLUSTERS:
        few = [f"values of {key}" for key, count in counts.items() if count < FEW_CLUSTERS]
        parts.append(f"fewer than {FEW_CLUSTERS} {' and '.join(few) or 'items'}: the interval is itself uncertain")
    return "; ".join(parts)
