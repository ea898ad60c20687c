"""What a comparison could have found, what it would take to find more, and whether two systems are as good as equal."""

from dataclasses import dataclass

from benchmarks.statistics.metrics import find_metric
from benchmarks.statistics.significance import DETECTABLE, Comparison
from rewards import InputError


@dataclass(frozen=True)
class Equivalence:
    """Is a system no worse than another, or as good, within a margin?

    Attributes:
        margin: the largest difference that does not matter.
        p_no_worse: one-sided, of the hypothesis that a is worse than b by `margin` or more.
        p_equivalent: of the hypothesis that they differ by `margin` or more either way (two one-sided tests).
    """

    margin: float
    p_no_worse: float
    p_equivalent: float


def perturbations_needed(comparison: Comparison, difference: float) -> float:
    """Return how many test perturbations would find a true difference in 80 of 100 benchmarks at 5 %.

    More perturbations over the same genes and training runs shrink the variance between perturbations and between
    items alone; what genes and training runs add stays. (Of a mean over genes, all that V_gene holds is taken to
    stay, which asks for too many.)

    Args:
        comparison: of two systems on the perturbations at hand.
        difference: the true difference wanted, above 0, in the metric's unit.

    Returns:
        The number, not rounded; infinite where genes or training runs alone hide such a difference.

    Raises:
        InputError: `difference` is not above 0, or the comparison has no standard error.
    """
    if not difference > 0:
        raise InputError(f"perturbations_needed: difference is {difference}; pass one above 0")
    if not comparison.se > 0:
        raise InputError(f"perturbations_needed: the comparison has no standard error ({comparison.test})")
    by_genes = comparison.v_gene - (0 if comparison.unit == "gene" else comparison.v_item)
    shrinking = max(comparison.se**2 - comparison.v_seed - max(by_genes, 0.0), 0.0)
    left = (difference / DETECTABLE) ** 2 - (comparison.se**2 - shrinking)
    return comparison.n_perturbations * shrinking / left if left > 0 else float("inf")


def equivalence(comparison: Comparison, margin: float) -> Equivalence:
    """Test whether a is no worse than b, and whether both are as good, within a margin.

    Two one-sided t tests (Schuirmann 1987, 10.1007/BF01068419) with the comparison's standard error and degrees of
    freedom. Better is higher or lower as the metric's entry says.

    Args:
        comparison: of a and b.
        margin: above 0, in the metric's unit, and fixed before the data were seen.

    Raises:
        InputError: `margin` is not above 0, or the comparison has no standard error.
    """
    if not margin > 0:
        raise InputError(f"equivalence: margin is {margin}; pass one above 0")
    if not comparison.se >= 0:
        raise InputError(f"equivalence: the comparison has no standard error ({comparison.test})")
    better = comparison.difference if find_metric(comparison.metric).higher_is_better else -comparison.difference
    if comparison.se == 0:
        return Equivalence(margin, float(better <= -margin), float(abs(better) >= margin))
    from scipy.stats import t as student

    worse, more = (student.sf((x + margin) / comparison.se, comparison.df) for x in (better, -better))
    return Equivalence(margin, float(worse), float(max(worse, more)))
