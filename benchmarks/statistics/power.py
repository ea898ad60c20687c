"""Power of a comparison: what it could have detected, how many more items it needs, and equivalence within a margin."""

from dataclasses import dataclass

from benchmarks.statistics.metrics import find_metric
from benchmarks.statistics.significance import DETECTABLE, Comparison
from rewards import InputError


@dataclass(frozen=True)
class Equivalence:
    """Whether system a is no worse than system b, and whether they are equally good, within a margin.

    Attributes:
        margin: the largest difference that does not matter, in the metric's unit.
        p_no_worse: one-sided p value of the hypothesis that a is worse than b by `margin` or more.
        p_equivalent: p value of the hypothesis that a and b differ by `margin` or more (two one-sided tests).
    """

    margin: float
    p_no_worse: float
    p_equivalent: float


def perturbations_needed(comparison: Comparison, difference: float) -> float:
    """Return how many test perturbations would find a true difference in 80 of 100 benchmarks at 5 %.

    More perturbations with the same genes and training runs reduce the variance between perturbations and between
    items. They do not reduce the variance between genes or between training runs. For a mean over genes the whole of
    V_gene is treated as fixed, so the number is too high there.

    Args:
        comparison: two systems compared on the perturbations available now.
        difference: the true difference to be found, above 0, in the metric's unit.

    Returns:
        The number, not rounded; infinite where the variance of genes or training runs alone hides the difference.

    Raises:
        InputError: `difference` is not above 0, or the comparison has no standard error.
    """
    if not difference > 0:
        raise InputError(f"perturbations_needed: difference is {difference}; pass one above 0")
    if not comparison.se > 0:
        raise InputError(
            f"perturbations_needed: the comparison has no standard error ({comparison.test}); compare on more items"
        )
    by_genes = comparison.v_gene - (0 if comparison.unit == "gene" else comparison.v_item)
    shrinking = max(comparison.se**2 - comparison.v_seed - max(by_genes, 0.0), 0.0)
    left = (difference / DETECTABLE) ** 2 - (comparison.se**2 - shrinking)
    return comparison.n_perturbations * shrinking / left if left > 0 else float("inf")


def equivalence(comparison: Comparison, margin: float) -> Equivalence:
    """Test whether a is no worse than b, and whether they are equally good, within a margin.

    Two one-sided t tests (Schuirmann 1987, 10.1007/BF01068419) with the comparison's standard error and degrees of
    freedom. The metric's `higher_is_better` says which direction is better.

    Args:
        comparison: of a and b.
        margin: above 0, in the metric's unit, and chosen before the data were seen.

    Returns:
        The margin and both p values.

    Raises:
        InputError: `margin` is not above 0, or the comparison has no standard error.
    """
    if not margin > 0:
        raise InputError(f"equivalence: margin is {margin}; pass one above 0")
    if not comparison.se >= 0:
        raise InputError(
            f"equivalence: the comparison has no standard error ({comparison.test}); compare on more items"
        )
    better = comparison.difference if find_metric(comparison.metric).higher_is_better else -comparison.difference
    if comparison.se == 0:
        return Equivalence(margin, float(better <= -margin), float(abs(better) >= margin))
    from scipy.stats import t as student

    worse, more = (student.sf((x + margin) / comparison.se, comparison.df) for x in (better, -better))
    return Equivalence(margin, float(worse), float(max(worse, more)))
