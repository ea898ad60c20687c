"""What similar knockdowns did to the same gene: the cross-line neighbour model.

A perturbation is described by its signed training labels in the *other* cell lines (columns line x gene), reduced
to 40 SVD components of unit length. The forecast for item (c, p, g) is the average of line c's training labels of
g over perturbations q known in another line, weighted exp(6 cos(p, q)), with 2 pseudo-counts at g's own rate. An
item's own perturbation never counts in its own line, so that a training item is forecast exactly as a test item is.

The same model serves as a baseline, as the evidence in prompts and, later, as a soft verifier.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.perturbqa import CELL_LINES
from rewards import LABELS, InputError, Label

COMPONENTS: Final = 40
SHARPNESS: Final = 6.0
PSEUDO_COUNTS: Final = 2.0
EVIDENCE_COLUMNS: Final = ["item_id", "rank", "pert", "similarity", "label"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class _Line:
    """One cell line's training labels, and how alike its perturbations are in the other lines.

    Axes: P all perturbations with a signature in another line or a training label here; G genes trained here.
    """

    perts: pd.Index
    genes: pd.Index
    label_PG: Any
    similarity_PP: Floats
    known_P: np.ndarray[Any, np.dtype[np.bool_]]
    positive_GL: Floats


def fit_neighbours(train: pd.DataFrame, *, components: int = COMPONENTS) -> "NeighbourModel":
    """Fit the cross-line neighbour model.

    Args:
        train: training rows with `cell_line`, `pert`, `gene`, `label` (a `split` column must hold `train` only).
        components: SVD components of a perturbation's signature, at least 1.

    Raises:
        InputError: `train` is empty or holds a row of another split.
    """
    if train.empty:
        raise InputError("train: no rows; pass the training rows of a split")
    if "split" in train and (train["split"] != "train").any():
        row = train.index[train["split"] != "train"][0]
        raise InputError(f"train: row {row} is a test row; pass labels[labels['split'] == 'train']")
    if components < 1:
        raise InputError(f"components: {components}; use at least 1")
    unknown = set(train["cell_line"].astype(str).unique()) - set(CELL_LINES)
    if unknown:
        raise InputError(f"cell_line: {min(unknown)!r} is unknown; PerturbQA has {', '.join(CELL_LINES)}")
    return NeighbourModel(train, components)


class NeighbourModel:
    """A fitted cross-line neighbour model; made by `fit_neighbours`."""

    def __init__(self, train: pd.DataFrame, components: int) -> None:
        self._lines = {
            line: _fit_line(train, line, components) for line in CELL_LINES if (train["cell_line"] == line).any()
        }
        counts = train.groupby("gene", observed=True)["label"].value_counts().unstack(fill_value=0)
        self._pooled_counts = counts.reindex(columns=[str(x) for x in LABELS], fill_value=0)
        shares = train["label"].value_counts(normalize=True).reindex([str(x) for x in LABELS]).fillna(0.0)
        self._prior: Floats = np.asarray(shares, dtype=np.float64)

    def rates(self, items: pd.DataFrame) -> Floats:
        """Return each item's gene rates, (N, 3) in the order of `LABELS`, without the item's own perturbation.

        A gene without other training rows in the item's line has its rate over all trained lines; an unseen gene
        has the training prior.
        """
        rates = np.empty((len(items), len(LABELS)))
        for line, at, group in _by_line(items):
            rates[at] = self._line_rates(line, group)
        return rates

    def predict(self, items: pd.DataFrame) -> pd.DataFrame:
        """Forecast items.

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`, from training or test.

        Returns:
            `item_id, p_up, p_down, p_none`, one row per item in the order given; the three sum to 1.
        """
        forecast = np.empty((len(items), len(LABELS)))
        for line, at, group in _by_line(items):
            rate_NL = self._line_rates(line, group)
            fitted = self._lines.get(line)
            forecast[at] = rate_NL if fitted is None else _weigh(fitted, group, rate_NL)
        return pd.DataFrame(
            {
                "item_id": items["item_id"].to_numpy(),
                "p_up": forecast[:, LABELS.index(Label.UP)],
                "p_down": forecast[:, LABELS.index(Label.DOWN)],
                "p_none": forecast[:, LABELS.index(Label.NONE)],
            }
        )

    def evidence(self, items: pd.DataFrame, k: int) -> pd.DataFrame:
        """Return the k most similar knockdowns that were measured on the same gene in the same line.

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`.
            k: knockdowns per item, at least 1; fewer where fewer are known.

        Returns:
            `item_id, rank` (from 1), `pert` (the similar knockdown), `similarity` (cosine over the other lines),
            `label` (what it did to the gene), most similar first. An item whose perturbation is unknown in the
            other lines has no rows, nor has one in a line without training labels.
        """
        if k < 1:
            raise InputError(f"k: {k} similar knockdowns; ask for at least 1")
        parts = []
        for line, _, group in _by_line(items):
            fitted = self._lines.get(line)
            if fitted is not None:
                parts.append(_nearest(fitted, group, k))
        if not parts:
            return pd.DataFrame(columns=EVIDENCE_COLUMNS)
        found = pd.concat(parts, ignore_index=True)
        order = pd.Series(np.arange(len(items)), index=items["item_id"])
        found["at"] = order.loc[found["item_id"]].to_numpy()
        return found.sort_values(["at", "rank"], ignore_index=True)[EVIDENCE_COLUMNS]

    def _line_rates(self, line: str, group: pd.DataFrame) -> Floats:
        pooled_NL = self._pooled_counts.reindex(group["gene"]).fillna(0.0).to_numpy()
        fitted = self._lines.get(line)
        if fitted is None:
            return _shares(pooled_NL, self._prior)
        gene_N = fitted.genes.get_indexer(pd.Index(group["gene"]))
        own_NL = _own_labels(fitted, group, gene_N)[:, None] == np.arange(1, len(LABELS) + 1)
        counts_NL = np.where(gene_N[:, None] >= 0, fitted.positive_GL[gene_N], 0.0)
        return _shares(counts_NL - own_NL, _shares(pooled_NL - own_NL, self._prior))


def _shares(counts_NL: Floats, fallback: Floats) -> Floats:
    total_N = counts_NL.sum(axis=1, keepdims=True)
    return np.where(total_N > 0, counts_NL / np.maximum(total_N, 1), fallback)


def _by_line(items: pd.DataFrame) -> Iterator[tuple[str, Ints, pd.DataFrame]]:
    lines = items["cell_line"].astype(str).to_numpy()
    for line in pd.unique(lines):
        if line not in CELL_LINES:
            raise InputError(f"cell_line: {line!r} is unknown; PerturbQA has {', '.join(CELL_LINES)}")
        at = np.flatnonzero(lines == line)
        yield line, at, items.iloc[at]


def _fit_line(train: pd.DataFrame, line: str, components: int) -> _Line:
    from scipy import sparse

    here = train[train["cell_line"] == line]
    there = train[(train["cell_line"] != line)]
    perts = pd.Index(np.unique(np.concatenate([here["pert"].unique(), there["pert"].unique()])))
    signature_PK, known_P = _signatures(there, perts, components)

    genes = pd.Index(np.sort(here["gene"].unique()))
    code_N = 1 + pd.Categorical(here["label"], categories=[str(x) for x in LABELS]).codes.astype(np.int64)
    if (code_N == 0).any():
        raise InputError(f"train: row {here.index[code_N == 0][0]} has an unknown label; use {', '.join(LABELS)}")
    pert_N, gene_N = perts.get_indexer(pd.Index(here["pert"])), genes.get_indexer(pd.Index(here["gene"]))
    label_PG = sparse.csc_array((code_N, (pert_N, gene_N)), shape=(len(perts), len(genes)))
    count_GL = [np.bincount(gene_N[code_N == 1 + c], minlength=len(genes)) for c in range(len(LABELS))]
    positive_GL = np.stack(count_GL, axis=1).astype(np.float64)
    return _Line(perts, genes, label_PG, np.round(signature_PK @ signature_PK.T, 12), known_P, positive_GL)


def _signatures(
    there: pd.DataFrame, perts: pd.Index, components: int
) -> tuple[Floats, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Describe perturbations by their signed labels in other lines: (P, K) rows of unit length, or 0 if unknown."""
    from scipy import sparse
    from scipy.sparse.linalg import svds

    sign = there["label"].map({str(Label.UP): 1.0, str(Label.DOWN): -1.0}).astype(float).fillna(0.0).to_numpy()
    signed = sign != 0
    column = (there["cell_line"].astype(str) + "|" + there["gene"])[signed]
    column_N, columns = pd.factorize(column, sort=True)
    matrix = sparse.csr_array(
        (sign[signed], (perts.get_indexer(pd.Index(there["pert"][signed])), column_N)),
        shape=(len(perts), max(len(columns), 1)),
    )
    k = min(components, min(matrix.shape) - 1)
    if k < 1:  # a single perturbation or column: nothing can be similar
        return np.zeros((len(perts), 1)), np.zeros(len(perts), dtype=bool)
    start = np.full(min(matrix.shape), 1.0)  # a fixed start: the same labels give the same components
    left_PK, scale_K, _ = svds(matrix, k=k, v0=start, tol=0)
    described_PK = left_PK * scale_K
    length_P = np.linalg.norm(described_PK, axis=1)
    known_P = length_P > 1e-9
    return described_PK / np.where(known_P, length_P, 1.0)[:, None] * known_P[:, None], known_P


def _own_labels(fitted: _Line, group: pd.DataFrame, gene_N: Ints) -> Ints:
    """Return the label code of each item itself, 0 where it is no training item."""
    pert_N = fitted.perts.get_indexer(pd.Index(group["pert"]))
    inside = (pert_N >= 0) & (gene_N >= 0)
    own = np.zeros(len(group), dtype=np.int64)
    if inside.any():  # SciPy returns no array for no indices
        own[inside] = fitted.label_PG[pert_N[inside], gene_N[inside]]
    return own


def _weigh(fitted: _Line, group: pd.DataFrame, rate_NL: Floats) -> Floats:
    """Average line c's training labels of each item's gene, weighted by similarity to its perturbation."""
    pert_N, gene_N = (
        fitted.perts.get_indexer(pd.Index(group["pert"])),
        fitted.genes.get_indexer(pd.Index(group["gene"])),
    )
    usable = (pert_N >= 0) & (gene_N >= 0)
    usable[usable] = fitted.known_P[pert_N[usable]]
    forecast = rate_NL.copy()
    if not usable.any():
        return forecast
    queried, at_Q = np.unique(pert_N[usable], return_inverse=True)
    weight_QP = np.exp(SHARPNESS * fitted.similarity_PP[queried])
    weight_QP[:, ~fitted.known_P] = 0.0
    weight_QP[np.arange(len(queried)), queried] = 0.0  # never the item's own perturbation
    gene_U = gene_N[usable]
    sums = np.stack(
        [(weight_QP @ (fitted.label_PG == 1 + c).astype(np.float64))[at_Q, gene_U] for c in range(len(LABELS))], axis=1
    )
    total = sums.sum(axis=1, keepdims=True)
    forecast[usable] = (sums + PSEUDO_COUNTS * rate_NL[usable]) / (total + PSEUDO_COUNTS)
    return forecast


def _nearest(fitted: _Line, group: pd.DataFrame, k: int) -> pd.DataFrame:
    pert_N, gene_N = (
        fitted.perts.get_indexer(pd.Index(group["pert"])),
        fitted.genes.get_indexer(pd.Index(group["gene"])),
    )
    usable = np.flatnonzero((pert_N >= 0) & (gene_N >= 0))
    usable = usable[fitted.known_P[pert_N[usable]]]
    item_id = group["item_id"].to_numpy()
    labels = fitted.label_PG.toarray().astype(np.int8)
    names = fitted.perts.to_numpy()
    rows: list[pd.DataFrame] = []
    for pert in np.unique(pert_N[usable]):
        mine = usable[pert_N[usable] == pert]
        order = np.argsort(-fitted.similarity_PP[pert], kind="stable")
        order = order[(order != pert) & fitted.known_P[order]]
        label_QM = labels[np.ix_(order, gene_N[mine])]
        seen_QM = label_QM > 0
        rank_QM = np.cumsum(seen_QM, axis=0)
        q, m = np.nonzero(seen_QM & (rank_QM <= k))
        rows.append(
            pd.DataFrame(
                {
                    "item_id": item_id[mine[m]],
                    "rank": rank_QM[q, m],
                    "pert": names[order[q]],
                    "similarity": fitted.similarity_PP[pert, order[q]],
                    "label": np.array([str(x) for x in LABELS], dtype=object)[label_QM[q, m] - 1],
                }
            )
        )
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=EVIDENCE_COLUMNS)
