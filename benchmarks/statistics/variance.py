"""Variance of an estimate: over items correlated within perturbations and within genes, and between training runs."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.statistics.arrays import Floats, Ints
from rewards import InputError

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
    psi: npt.ArrayLike,
    pert: npt.ArrayLike,
    gene: npt.ArrayLike,
    *,
    unit: Literal["gene", "pert"] | None = None,
    psi_unit: npt.ArrayLike | None = None,
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
        pert: (n,) perturbation of each item, any hashable value.
        gene: (n,) gene of each item.
        unit: `gene` or `pert` for a mean over such units.
        psi_unit: (n,) influences for the sums over the unit; given exactly where `unit` is.

    Raises:
        InputError: there are not two perturbations and two genes at least, or lengths differ.
    """
    pert_code, perts = pd.factorize(np.asarray(pert))
    gene_code, genes = pd.factorize(np.asarray(gene))
    influence = np.asarray(psi, dtype=np.float64)
    of_unit = None if psi_unit is None else np.asarray(psi_unit, dtype=np.float64)
    if (unit is None) != (of_unit is None):
        raise InputError("two_way_variance: unit and psi_unit go together; pass both or neither")
    lengths = {len(influence), len(pert_code), len(gene_code)} | ({len(of_unit)} if of_unit is not None else set())
    if len(lengths) > 1:
        raise InputError(
            f"two_way_variance: {len(influence)} influences, {len(pert_code)} perturbations, {len(gene_code)} genes; "
            "pass one each"
        )
    if min(len(perts), len(genes)) < 2:
        raise InputError(
            f"two_way_variance: {len(perts)} perturbation(s), {len(genes)} gene(s); two of each are the least"
        )
    pair = pd.factorize(pert_code.astype(np.int64) * len(genes) + gene_code)[0]
    return two_way(influence, pert_code, gene_code, pair, unit, of_unit)


def two_way_se(
    psi: npt.ArrayLike,
    pert: npt.ArrayLike,
    gene: npt.ArrayLike,
    *,
    unit: Literal["gene", "pert"] | None = None,
    psi_unit: npt.ArrayLike | None = None,
) -> tuple[float, int]:
    """Standard error from `two_way_variance`, and its degrees of freedom, the smaller number of clusters less 1."""
    found = two_way_variance(psi, pert, gene, unit=unit, psi_unit=psi_unit)
    return float(np.sqrt(found.of_items)), int(found.df)


def two_way(
    psi: Floats, pert: Ints, gene: Ints, pair: Ints, unit: Literal["gene", "pert"] | None, psi_unit: Floats | None
) -> Variance:
    """Do as `two_way_variance`, with whole-number codes of perturbation, gene, and both together (`pair`) at hand."""

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
