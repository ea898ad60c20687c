"""Forecasts for perturbations and genes without training rows: shortcuts that know them from elsewhere.

They use kin (`benchmarks.evidence.kin`): vectors of perturbations and genes from the other cell lines' training rows
and from a reference screen. docs/baselines.md has figures. No forecast uses a test label, or a label of an item's own
perturbation in its own line; a regression learns its weights from all training items.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kin import Kin
from benchmarks.evidence.neighbours import label_codes
from benchmarks.evidence.reference import Reference
from rewards import LABELS, InputError, Label

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]

RATE_PSEUDO_COUNTS: Final = 5.0
COPY_PSEUDO_COUNTS: Final = 0.5
_UP, _DOWN, _NONE = (LABELS.index(label) for label in (Label.UP, Label.DOWN, Label.NONE))
_BLOCK: Final = 256  # perturbations computed at once: limits the memory to 256 x genes x 6 numbers


@dataclass(frozen=True)
class TwoSidedSettings:
    """Settings of the two-sided neighbours, named as in `two_sided_neighbours`.

    Attributes:
        pert_sharpness: s, at least 0.
        gene_sharpness: t, at least 0.
        pseudo_counts: A, above 0.
    """

    pert_sharpness: float
    gene_sharpness: float
    pseudo_counts: float


SHARPNESS: Final = (2.0, 6.0, 12.0)
PSEUDO_COUNTS: Final = (0.3, 3.0, 30.0)


def two_sided_neighbours(corpus: Corpus, items: pd.DataFrame, settings: TwoSidedSettings | None = None) -> pd.DataFrame:
    """Forecast items by what similar knockdowns did to similar genes in the same line.

    For item (c, p, g) and label k, with line c's training labels y:

        w_q = exp(s (cos(p, q) - 1))        other perturbations q; never p itself
        v_h = exp(t (cos(g, h) - 1))        genes h; 1 for g itself
        n_k = sum over training rows (q, h) of w_q v_h [y(q, h) = k]
        p_k = (n_k + A r_k) / (n + A)

    r_k is the share of k in the line's training rows of other perturbations. A cosine is that of kin, 0 where either is
    unknown. A kernel estimate as in Nadaraya 1964 (10.1137/1109020), as a product of two kernels. A line without
    training rows gets the shares of all training labels.

    Args:
        corpus: labels under a split; not the sample.
        items: N items with `item_id`, `cell_line`, `pert`, `gene`.
        settings: s, t and A; those of `choose_two_sided` by default.

    Returns:
        `item_id, p_up, p_down, p_none`, one row per item in the order given.

    Raises:
        InputError: there is neither another cell line nor a reference.
    """
    _need_kin(corpus)
    chosen = choose_two_sided(corpus) if settings is None else settings
    share_NL, count_NL = _shares_of_training(corpus, items), np.zeros((len(items), len(LABELS)))
    for at, grid in _grids(corpus, items):
        share_NL[at], count_NL[at] = grid.share_NL, grid.counts(chosen)
    return _frame(items, _shrink(count_NL, share_NL, chosen.pseudo_counts))


def choose_two_sided(corpus: Corpus) -> TwoSidedSettings:
    """Choose the settings of the two-sided neighbours by cross-validation over `Corpus.rehearsals`.

    They have the smallest mean log loss on the rows that rehearsals withhold. s and t are of `SHARPNESS`, A is of
    `PSEUDO_COUNTS`.
    """
    loss: dict[TwoSidedSettings, float] = {}
    for rehearsal in corpus.rehearsals:
        withheld = rehearsal.test
        code_N = label_codes(withheld)
        for at, grid in _grids(rehearsal, withheld):
            true = np.arange(len(at)), code_N[at]
            for sharpness in product(SHARPNESS, SHARPNESS):
                settings = [TwoSidedSettings(*sharpness, pseudo_counts=one) for one in PSEUDO_COUNTS]
                count_NL = grid.counts(settings[0])
                for one in settings:
                    told_N = _shrink(count_NL, grid.share_NL, one.pseudo_counts)[true]
                    loss[one] = loss.get(one, 0.0) - float(np.log(np.maximum(told_N, 1e-9)).sum())
    if not loss:  # each line withheld as a whole: nothing depends on the settings
        return TwoSidedSettings(SHARPNESS[1], SHARPNESS[1], PSEUDO_COUNTS[1])
    return min(loss, key=lambda one: loss[one])


def low_rank(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast items by a low-rank reconstruction of the other lines' and the reference's labels.

    The entry (p, g) of the truncated SVD of their signed labels, up to the lengths of the two vectors, is the cosine c
    between p and g in `Kin`. Two logistic regressions on c, |c|, and on whether p and g are known turn it into
    probabilities: change or none, and up or down given a change (scikit-learn, L2 with C = 1, features scaled to
    unit variance). They are fitted on the training items of all lines.

    Args, returns, raises: as for `two_sided_neighbours`.
    """
    _need_kin(corpus)
    train = corpus.train
    return _frame(items, _regress(_reconstruction(corpus, train), train, _reconstruction(corpus, items)))


def transfer(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast items by what the reference screen says of their perturbation and gene.

    Two logistic regressions as in `low_rank`, on these features of the reference's labels, all lines together:

    - ln(r_k / s_k) for k up and down, of the gene and of the perturbation: r_k = (n_k + 5 s_k) / (n + 5), where n_k of
      the n labels are k, and s_k is the share of k among all labels.
    - ln(c_k / r_k) of the very pair, c_k = (n_k + .5 r_k) / (n + .5) with the gene's r_k.
    - the cosine between perturbation and gene in `Kin`.

    What the reference does not know has the feature 0.

    Args, returns: as for `two_sided_neighbours`.

    Raises:
        InputError: the corpus has no reference.
    """
    if corpus.reference is None:
        raise InputError("transfer: there is no reference screen; name one with --evidence_from")
    train = corpus.train
    features_TF, features_NF = (
        np.column_stack([_told(corpus.reference, rows), _reconstruction(corpus, rows)[:, 0]]) for rows in (train, items)
    )
    return _frame(items, _regress(features_TF, train, features_NF))


def has_kin(corpus: Corpus) -> bool:
    """Tell whether kin can know anything: by another cell line of the corpus, or by a reference."""
    return corpus.reference is not None or corpus.labels["cell_line"].nunique() > 1


def _need_kin(corpus: Corpus) -> None:
    if not has_kin(corpus):
        raise InputError(
            "kin: the labels have one cell line, and there is no reference screen; name one with --evidence_from"
        )


@dataclass(frozen=True)
class _Grid:
    """Items of one line over its training rows, for `two_sided_neighbours`.

    Axes: A perturbations asked about, P of the training rows; H genes asked about, G of the training rows; N items.
    """

    pert_N: Ints
    gene_N: Ints
    share_NL: Floats  # r of the formula
    said: Sequence[Any]  # by label: sparse (P, G), 1 where a training row has it
    cosine_AP: Singles
    cosine_GH: Singles
    mine_A: Ints  # position of the same perturbation among P; -1 for none

    def counts(self, settings: TwoSidedSettings) -> Floats:
        """Return n of the formula, (N, 3)."""
        weight_GH = _weights(self.cosine_GH, settings.gene_sharpness)
        count_NL = np.empty((len(self.pert_N), len(LABELS)))
        order = np.argsort(self.pert_N, kind="stable")
        for start in range(0, len(self.mine_A), _BLOCK):
            block = np.arange(start, min(start + _BLOCK, len(self.mine_A)))
            at = order[slice(*np.searchsorted(self.pert_N[order], (block[0], block[-1] + 1)))]
            weight_BP = _weights(self.cosine_AP[block], settings.pert_sharpness)
            mine_B = self.mine_A[block]
            weight_BP[np.flatnonzero(mine_B >= 0), mine_B[mine_B >= 0]] = 0.0  # never the item's own perturbation
            for k, said_PG in enumerate(self.said):
                count_NL[at, k] = ((weight_BP @ said_PG) @ weight_GH)[self.pert_N[at] - start, self.gene_N[at]]
        return count_NL


def _grids(corpus: Corpus, items: pd.DataFrame) -> Iterator[tuple[Ints, _Grid]]:
    """Yield the positions of each line's items, and their grid; nothing for a line without training rows."""
    train = corpus.train
    code_T, line_T = label_codes(train), train["cell_line"].astype(str).to_numpy()
    for line, at in _by_line(items):
        here = line_T == line
        if here.any():
            yield at, _grid(corpus.kin(line), train[here], code_T[here], items.iloc[at])


def _grid(kin: Kin, rows: pd.DataFrame, code_T: Ints, items: pd.DataFrame) -> _Grid:
    from scipy import sparse

    (pert_T, perts), (gene_T, genes) = (pd.factorize(rows[name].astype(str)) for name in ("pert", "gene"))
    (pert_N, asked_perts), (gene_N, asked_genes) = (pd.factorize(items[name].astype(str)) for name in ("pert", "gene"))
    mine_A = pd.Index(perts).get_indexer(pd.Index(asked_perts)).astype(np.int64)
    counts_PL = np.bincount(pert_T * len(LABELS) + code_T, minlength=len(perts) * len(LABELS)).reshape(len(perts), -1)
    share_AL = _shares(counts_PL.sum(axis=0) - _rows_at(counts_PL, mine_A))
    cosine_GH = _cosines(kin.gene_vectors(genes)[0], kin.gene_vectors(asked_genes)[0])
    same_H = pd.Index(genes).get_indexer(pd.Index(asked_genes))
    cosine_GH[same_H[same_H >= 0], np.flatnonzero(same_H >= 0)] = 1.0  # also where kin do not know the gene
    said = []
    for k in range(len(LABELS)):
        is_k = code_T == k
        ones = np.ones(int(is_k.sum()), dtype=np.float32)
        said.append(sparse.csr_array((ones, (pert_T[is_k], gene_T[is_k])), shape=(len(perts), len(genes))))
    cosine_AP = _cosines(kin.pert_vectors(asked_perts)[0], kin.pert_vectors(perts)[0])
    return _Grid(pert_N, gene_N, share_AL[pert_N], said, cosine_AP, cosine_GH, mine_A)


def _cosines(vector_AK: Floats, vector_BK: Floats) -> Singles:
    """Return the cosine of each pair, (A, B); in single precision, which is twice as fast and half as large."""
    return np.asarray(vector_AK.astype(np.float32) @ vector_BK.astype(np.float32).T)


def _weights(cosine_AB: Singles, sharpness: float) -> Singles:
    return np.asarray(np.exp(np.float32(sharpness) * (cosine_AB - np.float32(1))))


def _shares_of_training(corpus: Corpus, items: pd.DataFrame) -> Floats:
    counts_L = np.bincount(label_codes(corpus.train), minlength=len(LABELS))
    return np.tile(_shares(counts_L[None, :]), (len(items), 1))


def _reconstruction(corpus: Corpus, items: pd.DataFrame) -> Floats:
    """Return (N, 4): cosine between perturbation and gene, its size, and whether each of the two is known."""
    found = np.zeros((len(items), 4))
    for line, at in _by_line(items):
        kin, group = corpus.kin(line), items.iloc[at]
        (pert_N, perts), (gene_N, genes) = (pd.factorize(group[name].astype(str)) for name in ("pert", "gene"))
        (vector_PK, known_P), (vector_GK, known_G) = kin.pert_vectors(perts), kin.gene_vectors(genes)
        cosine_N = np.einsum("nk,nk->n", vector_PK[pert_N], vector_GK[gene_N])
        found[at] = np.column_stack([cosine_N, np.abs(cosine_N), known_P[pert_N], known_G[gene_N]])
    return found


@dataclass(frozen=True)
class _Told:
    """How often each label stands in the reference: by gene, by perturbation and by pair, each once."""

    perts: pd.Index
    genes: pd.Index
    pairs: Ints  # sorted; position of the perturbation times number of genes, plus position of the gene
    counts_PL: Floats
    counts_GL: Floats
    counts_QL: Floats


@lru_cache(maxsize=2)  # the same for every split and rehearsal
def _count_reference(reference: Reference) -> _Told:
    code_R = label_codes(reference.labels)
    (pert_R, perts), (gene_R, genes) = (pd.factorize(reference.labels[name].astype(str)) for name in ("pert", "gene"))
    pairs, pair_R = np.unique(pert_R.astype(np.int64) * len(genes) + gene_R, return_inverse=True)
    counts = []
    for group_R, n in ((pert_R, len(perts)), (gene_R, len(genes)), (pair_R, len(pairs))):
        cells = np.bincount(group_R * len(LABELS) + code_R, minlength=n * len(LABELS))
        counts.append(cells.reshape(n, len(LABELS)).astype(np.float64))
    return _Told(pd.Index(perts), pd.Index(genes), pairs, *counts)


def _told(reference: Reference, items: pd.DataFrame) -> Floats:
    """Return (N, 6): what a reference tells of gene, perturbation and pair, up and down each; see `transfer`."""
    told = _count_reference(reference)
    pert_N, gene_N = (
        _named_at(index, items[name].astype(str), reference)
        for name, index in (("pert", told.perts), ("gene", told.genes))
    )
    pair_N = np.where((pert_N >= 0) & (gene_N >= 0), pert_N * len(told.genes) + gene_N, -1)
    at_N = np.minimum(np.searchsorted(told.pairs, pair_N), len(told.pairs) - 1)
    at_N = np.where(told.pairs[at_N] == pair_N, at_N, -1)
    share_L = _shares(told.counts_GL.sum(axis=0)[None, :])
    gene_NL = _shrink(_rows_at(told.counts_GL, gene_N), share_L, RATE_PSEUDO_COUNTS)
    pert_NL = _shrink(_rows_at(told.counts_PL, pert_N), share_L, RATE_PSEUDO_COUNTS)
    pair_NL = _shrink(_rows_at(told.counts_QL, at_N), gene_NL, COPY_PSEUDO_COUNTS)
    floor = 1e-9  # a label that the reference never has
    ratios = ((gene_NL, share_L), (pert_NL, share_L), (pair_NL, gene_NL))
    return np.column_stack(
        [np.log((one_NL + floor) / (base_NL + floor))[:, k] for one_NL, base_NL in ratios for k in (_UP, _DOWN)]
    )


def _named_at(index: pd.Index, symbols: pd.Series, reference: Reference) -> Ints:
    """Return where the reference's names of our symbols stand in an index, (N,); -1 for a symbol that is not there."""
    code_N, unique = pd.factorize(symbols)
    at_U = index.get_indexer(pd.Index([reference.name_of(symbol) or "" for symbol in unique], dtype=object))
    return at_U.astype(np.int64)[code_N]


def _rows_at(counts_XL: npt.NDArray[Any], at_N: Ints) -> Floats:
    return np.where(at_N[:, None] >= 0, counts_XL[at_N], 0.0)


def _regress(features_TF: Floats, train: pd.DataFrame, features_NF: Floats) -> Floats:
    """Return label probabilities, (N, 3), of the two regressions that `low_rank` describes, fitted on T rows."""
    code_T = label_codes(train)
    changed_T = code_T != _NONE
    changes_N = _regress_binary(features_TF, changed_T, features_NF)
    up_N = _regress_binary(features_TF[changed_T], code_T[changed_T] == _UP, features_NF)
    found = np.empty((len(features_NF), len(LABELS)))
    found[:, _UP], found[:, _DOWN], found[:, _NONE] = changes_N * up_N, changes_N * (1 - up_N), 1 - changes_N
    return found


def _regress_binary(features_TF: Floats, is_T: npt.NDArray[Any], features_NF: Floats) -> Floats:
    """Return the probability of True, (N,); the share of True where the training rows have but one of the two."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(is_T)) < 2:
        return np.full(len(features_NF), float(is_T.mean()) if len(is_T) else 0.5)
    mean_F, spread_F = features_TF.mean(axis=0), features_TF.std(axis=0)
    spread_F[spread_F < 1e-9] = 1.0
    model = LogisticRegression(max_iter=1000).fit((features_TF - mean_F) / spread_F, is_T)
    return np.asarray(model.predict_proba((features_NF - mean_F) / spread_F)[:, 1])


def _by_line(items: pd.DataFrame) -> Iterator[tuple[str, Ints]]:
    lines = items["cell_line"].astype(str).to_numpy()
    for line in pd.unique(lines):
        yield str(line), np.flatnonzero(lines == line)


def _shares(counts_NL: npt.NDArray[Any]) -> Floats:
    total_N = counts_NL.sum(axis=1, keepdims=True)
    return np.where(total_N > 0, counts_NL / np.maximum(total_N, 1), 1 / len(LABELS))


def _shrink(counts_NL: Floats, share_NL: Floats, pseudo: float) -> Floats:
    return np.asarray((counts_NL + pseudo * share_NL) / (counts_NL.sum(axis=1, keepdims=True) + pseudo))


def _frame(items: pd.DataFrame, probability_NL: Floats) -> pd.DataFrame:
    columns: Sequence[str] = PROBABILITIES
    frame = pd.DataFrame(dict(zip(columns, probability_NL.T, strict=True)))
    frame.insert(0, "item_id", items["item_id"].to_numpy())
    return frame
