"""Kin: which perturbations and which genes are alike, judged without any label of the cell line that is asked about.

A perturbation and a gene are described by the labels of the *other* cell lines and of the reference screen, in the way
of `benchmarks.evidence.neighbours`: signed labels weighted by rarity, then a truncated SVD. Kin therefore know a
perturbation or gene that has no training row at all, if the reference or another line has rows of it.

Where there is neither another line nor a reference, nothing is known.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import pandas as pd

from benchmarks.evidence.neighbours import Bools, Floats, Ints, describe, label_codes
from benchmarks.evidence.reference import Reference

COMPONENTS: Final = 80  # as in the settings of the neighbours


@dataclass(frozen=True)
class Kin:
    """Descriptions of perturbations and genes for one cell line; made by `fit_kin`.

    Axes: P perturbations and G genes of the other lines and the reference; K components. A vector has unit length. It
    is 0 where no row says that the perturbation or gene ever changed anything, or was changed.

    Attributes:
        perts: (P,) names of the perturbations: the reference's, or those of `pert_at` where it has none.
        vector_PK: (P, K) their unit vectors. Similarity is the cosine.
        known_P: (P,) whether the vector is not 0.
        genes, vector_GK, known_G: the same for genes.
        reference: gives the names; None for none.
    """

    perts: pd.Index
    vector_PK: Floats
    known_P: Bools
    genes: pd.Index
    vector_GK: Floats
    known_G: Bools
    reference: Reference | None = field(default=None, repr=False)

    def pert_at(self, symbols: Iterable[str]) -> Ints:
        """Return where perturbations stand in `perts`, (N,); -1 where nothing is known of one."""
        return _known_at(self.perts, self.known_P, _names(symbols, self.reference))

    def gene_at(self, symbols: Iterable[str]) -> Ints:
        """Return where genes stand in `genes`, (N,); -1 where nothing is known of one."""
        return _known_at(self.genes, self.known_G, _names(symbols, self.reference))

    def pert_vectors(self, symbols: Iterable[str]) -> tuple[Floats, Bools]:
        """Return the unit vectors of perturbations, (N, K), 0 where one is unknown; and whether it is known, (N,)."""
        return _vectors(self.vector_PK, self.pert_at(symbols))

    def gene_vectors(self, symbols: Iterable[str]) -> tuple[Floats, Bools]:
        """Return the unit vectors of genes, (N, K), 0 where one is unknown; and whether it is known, (N,)."""
        return _vectors(self.vector_GK, self.gene_at(symbols))


def fit_kin(train: pd.DataFrame, line: str, reference: Reference | None = None, components: int = COMPONENTS) -> Kin:
    """Describe perturbations and genes for one cell line.

    Args:
        train: training rows with `cell_line`, `pert`, `gene`, `label`. Those of the line itself are not used.
        line: the cell line.
        reference: another screen, whose rows are all used, whatever their line.
        components: length of the vectors, at least 1; fewer where there are fewer rows.

    Returns:
        The kin. It knows nothing where `train` has no other line and there is no reference.
    """
    others = train[train["cell_line"].astype(str) != line]
    if others.empty:
        return _of_reference(reference, components)
    return _describe(others, reference, components)


@lru_cache(maxsize=2)
def _of_reference(reference: Reference | None, components: int) -> Kin:
    """The same for every split of a screen with one line, so that it is computed once."""
    return _describe(None, reference, components)


def _describe(others: pd.DataFrame | None, reference: Reference | None, components: int) -> Kin:
    parts = []
    if reference is not None:
        there = reference.labels
        lines = "reference " + there["cell_line"].astype(str)  # never the name of a line of ours: it has a space
        parts.append(_rows(lines, there["pert"].astype(str), there["gene"].astype(str), there))
    if others is not None:
        pert, gene = (_named(others[column].astype(str), reference) for column in ("pert", "gene"))
        parts.append(_rows(others["cell_line"].astype(str), pert, gene, others))
    if not parts:
        nothing, empty = pd.Index([], dtype=object), np.zeros((0, 1))
        return Kin(nothing, empty, np.zeros(0, dtype=bool), nothing, empty, np.zeros(0, dtype=bool), reference)
    rows = pd.concat(parts, ignore_index=True)
    perts, genes = pd.Index(np.unique(rows["pert"])), pd.Index(np.unique(rows["gene"]))
    vector_PK, known_P, vector_GK = describe(rows, perts, genes, components)
    return Kin(perts, vector_PK, known_P, genes, vector_GK, (vector_GK != 0).any(axis=1), reference)


def _rows(line: pd.Series, pert: pd.Series, gene: pd.Series, labelled: pd.DataFrame) -> pd.DataFrame:
    columns = {"line": line, "pert": pert, "gene": gene}
    return pd.DataFrame({name: column.to_numpy() for name, column in columns.items()}).assign(
        code=label_codes(labelled)
    )


def _named(symbols: pd.Series, reference: Reference | None) -> pd.Series:
    unique = symbols.unique()
    return symbols.map(dict(zip(unique, _names(unique, reference), strict=True)))


def _names(symbols: Iterable[str], reference: Reference | None) -> list[str]:
    """Return what symbols of ours are called among the kin: the reference's name, else a name that it can't have."""
    if reference is None:
        return [str(symbol) for symbol in symbols]
    named = ((symbol, reference.name_of(symbol)) for symbol in map(str, symbols))
    return [name if name is not None else f"{symbol} (no counterpart)" for symbol, name in named]


def _known_at(index: pd.Index, known: Bools, names: list[str]) -> Ints:
    at_N = index.get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
    at_N[at_N >= 0] = np.where(known[at_N[at_N >= 0]], at_N[at_N >= 0], -1)
    return at_N


def _vectors(vectors: Floats, at_N: Ints) -> tuple[Floats, Bools]:
    known_N = at_N >= 0
    found = np.zeros((len(at_N), vectors.shape[1]))
    found[known_N] = vectors[at_N[known_N]]
    return found, known_N
