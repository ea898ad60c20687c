"""Variance of an estimate: over items correlated within perturbations and within genes, and between training runs."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.statistics.arrays import Floats, Ints

# Influences are of order 1/n; what rounding leaves of a standard error that is 0 lies far below this.
ZERO_SE: Final = 1e-13


@dataclass(frozen=True)
class Variance:
    """Parts of the variance of an estimate, from the influence of each item on it.

    Attributes:
        pert: summed within perturbations; contains what items vary by themselves.
        gene: summed within genes; likewise.
        item: of items by themselves (an item is a perturbation and a gene; a pair that recurs in other lines is one).
        unit: `gene` or `pert` for a mean over genes or perturbations, None for all other estimates.
        seed: between training runs.
        df: degrees of freedom of `total`.
    """

    pert: float
    gene: float
    item: float
    unit: Literal["gene", "pert"] | None
    df: float
    seed: float = 0.0

    @property
    def of_items(self) -> float:
        """V_pert + V_gene - V_item, and no less than the larger of the first two (of a mean over units: the units')."""
        floors = {None: max(self.pert, self.gene), "gene": self.gene, "pert": self.pert}
        both = max(self.pert + self.gene - self.item, floors[self.unit])
        # Influences may cancel in every perturbation and gene by chance; that is no proof of an error of 0.
        return both if both > ZERO_SE**2 else self.item

    @property
    def total(self) -> float:
        """Variance over items and training runs."""
        return self.of_items + self.seed


def two_way_variance(
    psi: Floats,
    pert: Ints,
    gene: Ints,
    pair: Ints,
    unit: Literal["gene", "pert"] | None = None,
    psi_unit: Floats | None = None,
) -> Variance:
    """Variance of an estimate whose influences are correlated within perturbations and within genes.

    V = V_pert + V_gene - V_item, each the sum over clusters of the squared sum of influences, times G/(G - 1)
    (Cameron, Gelbach & Miller 2011, 10.1198/jbes.2010.07136), V_item over the pairs of perturbation and gene, and V
    at least the larger of V_pert and V_gene. Assumes that items which share neither are independent.

    The mean of AUROCs within units (genes, say) has two kinds of influence. V_gene sums what each gene adds to the
    mean, `psi_unit`: all pairs of items of one gene are in it. V_pert - V_item then needs the pairs of items that
    share a perturbation and not a gene, from `psi` (see `benchmarks.statistics.metrics`). V is at least V_gene here.

    Args:
        psi: (n,) influence of each item; sums to 0.
        pert: (n,) perturbation of each item as a whole number from 0; two perturbations at least.
        gene: (n,) gene of each item, likewise.
        pair: (n,) both together, likewise.
        unit: `gene` or `pert` for a mean over such units.
        psi_unit: (n,) influences for the sums over the unit; given exactly where `unit` is.
    """

    def summed(code: Ints, of: str) -> tuple[float, int]:
        weights = psi if psi_unit is None or unit != of else psi_unit
        sums = np.bincount(code, weights=weights)
        n = int(np.count_nonzero(np.bincount(code)))
        # Not `@`: BLAS would wake its threads, which on a busy machine takes far longer than the sum.
        return float(np.einsum("i,i->", sums, sums)) * n / (n - 1), n

    (v_pert, n_pert), (v_gene, n_gene), (v_item, _) = summed(pert, "pert"), summed(gene, "gene"), summed(pair, "item")
    return Variance(v_pert, v_gene, v_item, unit, df=min(n_pert, n_gene) - 1)


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
