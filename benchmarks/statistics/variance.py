"""Variance of an estimate: between items that share perturbations or genes, and between training runs."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.statistics.arrays import Floats, Ints

# Influences are of order 1/n. The rounding error of a standard error that is 0 lies far below this.
ZERO_SE: Final = 1e-13


@dataclass(frozen=True)
class Variance:
    """Parts of the variance of an estimate, computed from the influence of each item on it.

    Attributes:
        pert: between perturbations; includes the variance of single items.
        gene: between genes; includes the variance of single items.
        item: between pairs of perturbation and gene; a pair in several cell lines counts once.
        unit: `gene` or `pert` for a mean over genes or perturbations, None for all other estimates.
        df: degrees of freedom of `total`.
        seed: between training runs.
    """

    pert: float
    gene: float
    item: float
    unit: Literal["gene", "pert"] | None
    df: float
    seed: float = 0.0

    @property
    def of_items(self) -> float:
        """V_pert + V_gene - V_item, at least the larger of the first two (for a mean over units: the units')."""
        floors = {None: max(self.pert, self.gene), "gene": self.gene, "pert": self.pert}
        both = max(self.pert + self.gene - self.item, floors[self.unit])
        # Influences may cancel by chance in every perturbation and gene. That does not prove an error of 0.
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

    V = V_pert + V_gene - V_item (Cameron, Gelbach & Miller 2011, 10.1198/jbes.2010.07136). Each part is the sum over
    its G clusters of the squared sum of influences, times G/(G - 1). The clusters of V_item are the pairs of
    perturbation and gene. V is at least the larger of V_pert and V_gene. Items that share neither a perturbation nor a
    gene are assumed to be independent.

    The mean of AUROCs within units (genes, for example) has two kinds of influence. V_gene sums the contribution of
    each gene to the mean, `psi_unit`, which covers all pairs of items of one gene. V_pert - V_item covers the pairs of
    items that share a perturbation but not a gene, and uses `psi` (see `benchmarks.statistics.estimates`). V is then at
    least V_gene.

    Args:
        psi: (n,) influence of each item; sums to 0.
        pert: (n,) perturbation of each item as a code from 0; at least two perturbations.
        gene: (n,) gene of each item as a code from 0; at least two genes.
        pair: (n,) perturbation and gene of each item together, as a code from 0.
        unit: `gene` or `pert` for a mean over such units; None otherwise.
        psi_unit: (n,) influences for the sums over units; needed if and only if `unit` is set.

    Returns:
        The parts, with `seed` 0.
    """

    def summed(code: Ints, of: str) -> tuple[float, int]:
        weights = psi if psi_unit is None or unit != of else psi_unit
        sums = np.bincount(code, weights=weights)
        n = int(np.count_nonzero(np.bincount(code)))
        # Not `@`: BLAS would wake its threads, which takes far longer than the sum on a busy machine.
        return float(np.einsum("i,i->", sums, sums)) * n / (n - 1), n

    (v_pert, n_pert), (v_gene, n_gene), (v_item, _) = summed(pert, "pert"), summed(gene, "gene"), summed(pair, "item")
    return Variance(v_pert, v_gene, v_item, unit, df=min(n_pert, n_gene) - 1)


def add_seed_variance(variance: float, df: float, values: npt.ArrayLike) -> tuple[float, float]:
    """Add the variance between training runs to the variance over items.

    Args:
        variance: of the mean over runs, due to the items.
        df: degrees of freedom of `variance`.
        values: (K,) the metric, or the paired difference, in each training run; their variance over K is added.

    Returns:
        The sum, and its degrees of freedom by Satterthwaite 1946 (10.2307/3002019). With one run, `variance` and `df`.
    """
    per_run = np.asarray(values, dtype=np.float64)
    n_runs = len(per_run)
    if n_runs < 2:
        return variance, float(df)
    between = float(per_run.var(ddof=1)) / n_runs
    if variance + between == 0:
        return 0.0, float(df)
    return variance + between, (variance + between) ** 2 / (variance**2 / df + between**2 / (n_runs - 1))
