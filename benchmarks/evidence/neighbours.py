"""What similar knockdowns did to the same gene: the cross-line neighbour model.

**Similarity.** A perturbation is described by its training labels in the *other* cell lines. There is one column per
gene. Its entry is the sum over those lines of +1 (up) or -1 (down), times log(1 + N/n): n of the N knockdowns (line x
perturbation) change the gene. Genes that respond to everything therefore count little (inverse document frequency,
Sparck Jones 1972, 10.1108/eb026526). A truncated SVD gives perturbations (left) and genes (right) as vectors of unit
length. Similarities are the cosines between them.

**Forecast** of label k for item (c, p, g), from line c's training labels y:

    w_q = exp(sharpness cos(p, q))                    other perturbations q known in another line
    v_h = cos(g, h)^2 where that cosine >= least_similar     other genes h
    n_k = sum_q w_q [y(q, g) = k]                     what similar knockdowns did to this gene
    O_k = sum_h v_h sum_q w_q [y(q, h) = k]           what they did to similar genes (observed)
    E_k = sum_h v_h sum_q w_q [y(q, h) known] r_k(h)  what the rates of those genes predict (expected)
    e_k ~ r_k(g) (O_k + a) / (E_k + a)                the gene's own rate, corrected; sums to 1
    p_k = (n_k + A e_k) / (n + A)

r_k is a gene's share of label k in the line, with b pseudo-counts distributed as all training labels. (O + a)/(E + a)
is the ratio of observed to expected counts, as in a standardised incidence ratio. The forecast is the gene's rate
alone in two cases: p is unknown in the other lines, or line c has no other perturbation with a label of g.

The forecast never uses a label of the item's own perturbation in its own line. A training item is therefore forecast
exactly as a test item is. The settings were chosen by cross-validation over training perturbations
(`tools/choose_neighbours.py`, docs/baselines.md).

The same model serves as a baseline, as the evidence in prompts and as a soft verifier. Evidence is about the same gene
only. Similar genes are used in the forecast alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.screens.schema import lines_of
from rewards import LABELS, InputError, Label

EVIDENCE_COLUMNS: Final = ["item_id", "rank", "pert", "similarity", "label"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
_DENSE: Final = 256  # up to so many perturbations or genes the SVD is a dense one
_BLOCK: Final = 128  # perturbations computed at once: limits the memory to about 128 x genes x 12 numbers


@dataclass(frozen=True)
class NeighbourSettings:
    """Settings of the neighbour model, named as in this module's formula. The defaults were chosen by cross-validation.

    Attributes:
        components: number of SVD components that describe a perturbation, at least 1.
        sharpness: factor of the cosine in a knockdown's weight, at least 0.
        least_similar: smallest cosine at which a gene counts as similar, above 0; above 1 no gene does.
        pseudo_counts: A, above 0.
        ratio_counts: a, above 0.
        rate_counts: b, above 0.
    """

    components: int = 80
    sharpness: float = 6.0
    least_similar: float = 0.2
    pseudo_counts: float = 100.0
    ratio_counts: float = 10.0
    rate_counts: float = 3.0

    def __post_init__(self) -> None:
        if self.components < 1:
            raise InputError(f"components: {self.components}; use at least 1")
        if self.sharpness < 0:
            raise InputError(f"sharpness: {self.sharpness}; use 0 or more")
        for name in ("least_similar", "pseudo_counts", "ratio_counts", "rate_counts"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)}; use a number above 0")


SETTINGS: Final = NeighbourSettings()


@dataclass(frozen=True)
class _Line:
    """One cell line's training labels, and the similarity of its perturbations and genes in the other lines.

    Axes: P all perturbations in the training rows of any line; G genes in those of this line; L labels.
    """

    perts: pd.Index
    genes: pd.Index
    label_PG: Any  # sparse: 1 + position in LABELS, 0 where there is no training row
    similarity_PP: Floats
    known_P: Bools
    similar_GG: Any  # sparse: v of the formula
    gene_counts_GL: Floats
    pert_counts_PL: Floats


def fit_neighbours(train: pd.DataFrame, settings: NeighbourSettings = SETTINGS) -> "NeighbourModel":
    """Fit the cross-line neighbour model.

    Args:
        train: training rows with `cell_line`, `pert`, `gene`, `label` (a `split` column must hold `train` only).
        settings: of the formula.

    Returns:
        The fitted model.

    Raises:
        InputError: `train` lacks a column, is empty, holds a row of another split, or an unknown label.
    """
    _need(train, ("cell_line", "pert", "gene", "label"), "train")
    if train.empty:
        raise InputError("train: no rows; pass the training rows of a split")
    if "split" in train and (train["split"] != "train").any():
        row = train.index[train["split"] != "train"][0]
        raise InputError(f"train: row {row} is a test row; pass labels[labels['split'] == 'train']")
    code_N = label_codes(train)
    if (code_N < 0).any():
        row = train.index[code_N < 0][0]
        raise InputError(f"train: row {row} has an unknown label; use {', '.join(LABELS)}")
    return NeighbourModel(train, code_N, settings)


def label_codes(rows: pd.DataFrame) -> Ints:
    """Return the position of each row's label in `LABELS`, (N,); -1 for another text."""
    code_N = pd.Index([str(label) for label in LABELS]).get_indexer(pd.Index(rows["label"].astype(str)))
    return code_N.astype(np.int64)


def _need(rows: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    for name in columns:
        if name not in rows:
            raise InputError(f"{what}: no column {name!r}; pass rows with {', '.join(columns)}")


class NeighbourModel:
    """A fitted cross-line neighbour model; made by `fit_neighbours`."""

    def __init__(self, train: pd.DataFrame, code_N: Ints, settings: NeighbourSettings) -> None:
        self._settings = settings
        rows = pd.DataFrame(
            {
                "line": train["cell_line"].astype(str).to_numpy(),
                "pert": train["pert"].astype(str).to_numpy(),
                "gene": train["gene"].astype(str).to_numpy(),
                "code": code_N,
            }
        )
        self._lines = {line: _fit_line(rows, line, settings) for line in lines_of(train)}
        self._genes = pd.Index(np.unique(rows["gene"]))
        self._gene_counts_GL = _count(self._genes.get_indexer(pd.Index(rows["gene"])), code_N, len(self._genes))
        self._counts_L: Floats = np.bincount(code_N, minlength=len(LABELS)).astype(np.float64)

    def rates(self, items: pd.DataFrame) -> Floats:
        """Return each item's gene rates: the shares of the labels among its gene's training rows in its line.

        The item's own label is left out. A gene without other training rows in the line has its rate over all training
        lines. A gene without any has the shares of all training labels, without those of the item's perturbation in
        its line.

        Args:
            items: N rows with `item_id`, `cell_line`, `pert`, `gene`.

        Returns:
            (N, 3) rates, in the order of `LABELS`.
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

        Raises:
            InputError: `items` lacks a column.
        """
        forecast = np.empty((len(items), len(LABELS)))
        for line, at, group in _by_line(items):
            forecast[at] = self._line_rates(line, group)
            fitted = self._lines.get(line)
            if fitted is not None:
                usable, pert_N, gene_N = _usable(fitted, group)
                forecast[at[usable]] = self._weigh(fitted, pert_N[usable], gene_N[usable])
        return pd.DataFrame(
            {
                "item_id": items["item_id"].to_numpy(),
                "p_up": forecast[:, LABELS.index(Label.UP)],
                "p_down": forecast[:, LABELS.index(Label.DOWN)],
                "p_none": forecast[:, LABELS.index(Label.NONE)],
            }
        )

    def evidence(self, items: pd.DataFrame, k: int, labels: Sequence[Label] = LABELS) -> pd.DataFrame:
        """Return the k most similar knockdowns that were measured on the same gene in the same line.

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`.
            k: knockdowns per item, at least 1; an item has fewer rows where fewer are known.
            labels: only knockdowns that did one of these to the gene.

        Returns:
            `item_id, rank` (from 1), `pert` (the similar knockdown), `similarity` (cosine over the other lines),
            `label` (what it did to the gene), most similar first. An item has no rows where its perturbation is unknown
            in the other lines, or where its line has no training labels.

        Raises:
            InputError: `k` is below 1, or `items` lacks a column.
        """
        if k < 1:
            raise InputError(f"k: {k} similar knockdowns; use at least 1")
        parts = []
        for line, _, group in _by_line(items):
            fitted = self._lines.get(line)
            if fitted is not None:
                parts.append(_nearest(fitted, group, k, labels))
        if not parts:
            return pd.DataFrame(columns=EVIDENCE_COLUMNS)
        found = pd.concat(parts, ignore_index=True)
        order = pd.Series(np.arange(len(items)), index=items["item_id"])
        found["at"] = order.loc[found["item_id"]].to_numpy()
        return found.sort_values(["at", "rank"], ignore_index=True)[EVIDENCE_COLUMNS]

    def _line_rates(self, line: str, group: pd.DataFrame) -> Floats:
        pooled_N = self._genes.get_indexer(pd.Index(group["gene"]))
        pooled_NL = np.where(pooled_N[:, None] >= 0, self._gene_counts_GL[pooled_N], 0.0)
        fitted = self._lines.get(line)
        if fitted is None:
            return _shares(pooled_NL, _shares(self._counts_L[None, :], 1 / len(LABELS)))
        pert_N = fitted.perts.get_indexer(pd.Index(group["pert"]))
        gene_N = fitted.genes.get_indexer(pd.Index(group["gene"]))
        own_NL = _own_labels(fitted, pert_N, gene_N)[:, None] == np.arange(1, len(LABELS) + 1)
        mine_NL = np.where(pert_N[:, None] >= 0, fitted.pert_counts_PL[pert_N], 0.0)
        prior_NL = _shares(self._counts_L - mine_NL, 1 / len(LABELS))
        counts_NL = np.where(gene_N[:, None] >= 0, fitted.gene_counts_GL[gene_N], 0.0)
        return _shares(counts_NL - own_NL, _shares(pooled_NL - own_NL, prior_NL))

    def _weigh(self, fitted: _Line, pert_N: Ints, gene_N: Ints) -> Floats:
        """Return p of the formula, (N, 3), for items of one line whose perturbation and gene have these codes."""
        said_PG = [(fitted.label_PG == 1 + c).astype(np.float64) for c in range(len(LABELS))]
        forecast = np.empty((len(pert_N), len(LABELS)))
        asked = np.unique(pert_N)
        for start in range(0, len(asked), _BLOCK):
            block = asked[start : start + _BLOCK]
            at = np.flatnonzero((pert_N >= block[0]) & (pert_N <= block[-1]))
            row_N = np.searchsorted(block, pert_N[at])
            weight_BP = np.exp(self._settings.sharpness * fitted.similarity_PP[block])
            weight_BP[:, ~fitted.known_P] = 0.0
            weight_BP[np.arange(len(block)), block] = 0.0  # never the item's own perturbation
            n_LBG = np.stack([weight_BP @ said for said in said_PG])
            expected_LBG = self._expected(fitted, block, n_LBG, np.stack([said[block].toarray() for said in said_PG]))
            n_NL, expected_NL = n_LBG[:, row_N, gene_N[at]].T, expected_LBG[:, row_N, gene_N[at]].T
            pseudo = self._settings.pseudo_counts
            forecast[at] = (n_NL + pseudo * expected_NL) / (n_NL.sum(axis=1, keepdims=True) + pseudo)
        return forecast

    def _expected(self, fitted: _Line, block: Ints, n_LBG: Floats, own_LBG: Floats) -> Floats:
        """Return e of the formula, (3, B, G): each gene's rate, corrected by the results for similar genes."""
        a, b = self._settings.ratio_counts, self._settings.rate_counts
        prior_BL = _shares(self._counts_L - fitted.pert_counts_PL[block], 1 / len(LABELS))
        counts_LBG = fitted.gene_counts_GL.T[:, None, :] - own_LBG
        rate_LBG = (counts_LBG + b * prior_BL.T[:, :, None]) / (counts_LBG.sum(axis=0) + b)
        known_BG = n_LBG.sum(axis=0)
        ratio_LBG = np.stack(
            [
                (n_BG @ fitted.similar_GG + a) / ((known_BG * rate_BG) @ fitted.similar_GG + a)
                for n_BG, rate_BG in zip(n_LBG, rate_LBG, strict=True)
            ]
        )
        expected_LBG = rate_LBG * ratio_LBG
        return np.asarray(expected_LBG / expected_LBG.sum(axis=0))


def _shares(counts_NL: Floats, fallback: Floats | float) -> Floats:
    total_N = counts_NL.sum(axis=1, keepdims=True)
    return np.where(total_N > 0, counts_NL / np.maximum(total_N, 1), fallback)


def _count(group_N: Ints, code_N: Ints, n_groups: int) -> Floats:
    """Count labels per group: (n_groups, 3)."""
    cell_N = group_N * len(LABELS) + code_N
    counts = np.bincount(cell_N, minlength=n_groups * len(LABELS)).reshape(n_groups, len(LABELS))
    return counts.astype(np.float64)


def _by_line(items: pd.DataFrame) -> Iterator[tuple[str, Ints, pd.DataFrame]]:
    _need(items, ("item_id", "cell_line", "pert", "gene"), "items")
    lines = items["cell_line"].astype(str).to_numpy()
    for line in pd.unique(lines):
        at = np.flatnonzero(lines == line)
        yield line, at, items.iloc[at]


def _fit_line(rows: pd.DataFrame, line: str, settings: NeighbourSettings) -> _Line:
    from scipy import sparse

    here, there = rows[rows["line"] == line], rows[rows["line"] != line]
    perts, genes = pd.Index(np.unique(rows["pert"])), pd.Index(np.unique(here["gene"]))
    vector_PK, known_P, vector_GK = describe(there, perts, genes, settings.components)
    code_N = here["code"].to_numpy()
    pert_N, gene_N = perts.get_indexer(pd.Index(here["pert"])), genes.get_indexer(pd.Index(here["gene"]))
    return _Line(
        perts=perts,
        genes=genes,
        label_PG=sparse.csc_array((1 + code_N, (pert_N, gene_N)), shape=(len(perts), len(genes))),
        similarity_PP=np.round(vector_PK @ vector_PK.T, 12),
        known_P=known_P,
        similar_GG=_similar_genes(vector_GK, settings.least_similar),
        gene_counts_GL=_count(gene_N, code_N, len(genes)),
        pert_counts_PL=_count(pert_N, code_N, len(perts)),
    )


def describe(there: pd.DataFrame, perts: pd.Index, genes: pd.Index, components: int) -> tuple[Floats, Bools, Floats]:
    """Describe perturbations and genes by signed labels, as this module's text says.

    Args:
        there: labelled rows with `line`, `pert`, `gene` and `code` (of `label_codes`).
        perts: (P,) perturbations to describe, with all of those rows among them.
        genes: (G,) genes to describe.
        components: length of a vector, at least 1.

    Returns:
        (P, K) perturbations as unit vectors, 0 if unknown; (P,) whether they are known; (G, K) genes likewise.
    """
    from scipy import sparse
    from scipy.sparse.linalg import svds

    n_knockdowns = len(there[["line", "pert"]].drop_duplicates())
    signed = there[there["code"] != LABELS.index(Label.NONE)]
    column_N, columns = pd.factorize(signed["gene"], sort=True)
    shape = (len(perts), max(len(columns), 1))
    k = min(components, min(shape) - 1)
    if k < 1:  # with a single perturbation or column nothing can be similar
        return np.zeros((len(perts), 1)), np.zeros(len(perts), dtype=bool), np.zeros((len(genes), 1))
    rarity_N = np.log1p(n_knockdowns / np.bincount(column_N))[column_N]
    sign_N = np.where(signed["code"] == LABELS.index(Label.UP), 1.0, -1.0)
    pert_N = perts.get_indexer(pd.Index(signed["pert"]))
    matrix = sparse.csr_array((sign_N * rarity_N, (pert_N, column_N)), shape=shape)  # sums repeated entries
    if min(shape) <= _DENSE:  # ARPACK fails on matrices of low rank
        left, scale, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
        left_PK, scale_K, right_KC = left[:, :k], scale[:k], right[:k]
    else:
        start = np.random.default_rng(0).normal(size=min(shape))  # fixed: the same labels give the same components
        left_PK, scale_K, right_KC = svds(matrix, k=k, v0=start, tol=0)
    vector_PK, known_P = _unit(left_PK * scale_K)
    vector_CK, _ = _unit(right_KC.T * scale_K)
    at_G = pd.Index(columns).get_indexer(genes)
    return vector_PK, known_P, np.where(at_G[:, None] >= 0, vector_CK[at_G], 0.0)


def _unit(rows: Floats) -> tuple[Floats, Bools]:
    """Scale rows to unit length, and say which rows could be scaled; rows of length 0 stay 0."""
    length = np.linalg.norm(rows, axis=1)
    known = length > 1e-9
    return rows / np.where(known, length, 1.0)[:, None] * known[:, None], known


def _similar_genes(vector_GK: Floats, least: float) -> Any:
    """Return the squared cosines of at least `least` between different genes: sparse (G, G)."""
    from scipy import sparse

    if least > 1:  # no gene is similar, and the search would take seconds
        return sparse.csr_array((len(vector_GK), len(vector_GK)))
    step, parts = 1024, []
    for start in range(0, len(vector_GK), step):  # all genes at once would take half a gigabyte
        cosine = np.round(vector_GK[start : start + step] @ vector_GK.T, 12)
        cosine[np.arange(len(cosine)), start + np.arange(len(cosine))] = 0.0
        parts.append(sparse.csr_array(np.where(cosine >= least, cosine**2, 0.0)))
    return sparse.vstack(parts, format="csr")


def _own_labels(fitted: _Line, pert_N: Ints, gene_N: Ints) -> Ints:
    """Return the label code of each item itself; 0 where the item is not a training item."""
    inside = (pert_N >= 0) & (gene_N >= 0)
    own = np.zeros(len(pert_N), dtype=np.int64)
    if inside.any():  # with no indices SciPy returns no array
        own[inside] = fitted.label_PG[pert_N[inside], gene_N[inside]]
    return own


def _usable(fitted: _Line, group: pd.DataFrame) -> tuple[Ints, Ints, Ints]:
    """Return the positions of the items that neighbours can forecast, and the perturbation and gene codes of all items.

    Neighbours can forecast an item under two conditions: its perturbation is known in another line, and its line has
    training labels of its gene under other perturbations.
    """
    pert_N = fitted.perts.get_indexer(pd.Index(group["pert"]))
    gene_N = fitted.genes.get_indexer(pd.Index(group["gene"]))
    own_N = _own_labels(fitted, pert_N, gene_N) > 0
    usable = np.flatnonzero((pert_N >= 0) & (gene_N >= 0))
    usable = usable[fitted.known_P[pert_N[usable]]]
    others_N = fitted.gene_counts_GL[gene_N[usable]].sum(axis=1) - own_N[usable]
    return usable[others_N > 0], pert_N, gene_N


def _nearest(fitted: _Line, group: pd.DataFrame, k: int, among: Sequence[Label]) -> pd.DataFrame:
    usable, pert_N, gene_N = _usable(fitted, group)
    item_id = group["item_id"].to_numpy()
    labels = fitted.label_PG.toarray().astype(np.int8)
    asked = np.array([False, *(label in among for label in LABELS)])  # by code; 0 is no training row
    names = fitted.perts.to_numpy()
    rows: list[pd.DataFrame] = []
    for pert in np.unique(pert_N[usable]):
        mine = usable[pert_N[usable] == pert]
        order = np.argsort(-fitted.similarity_PP[pert], kind="stable")
        order = order[(order != pert) & fitted.known_P[order]]
        label_QM = labels[np.ix_(order, gene_N[mine])]
        seen_QM = asked[label_QM]
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
