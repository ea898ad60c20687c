"""What kin of an item's knockdown did, in the item's line: to the same gene, or to genes that respond alike.

Who is kin is judged without any label of that line (`benchmarks.evidence.kin`): by the other lines and, where there is
one, by the reference screen. Similarity is the cosine. Quoted are training labels of the line, never one of the item's
own knockdown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evidence.kin import Kin
from benchmarks.evidence.neighbours import EVIDENCE_COLUMNS, Bools, Floats, Ints, label_codes
from rewards import LABELS, Label

PAIR_COLUMNS: Final = ["item_id", "rank", "pert", "gene", "similarity", "label"]
_NEAREST: Final = 50  # knockdowns and genes among which similar pairs are looked for


@dataclass(frozen=True)
class LineLabels:
    """The training labels of one line, with the kin of its perturbations and genes; made by `line_labels`.

    Axes: P perturbations and G genes of the line's training rows; K components.

    Attributes:
        perts, genes: their names.
        label_PG: 1 + position in `LABELS`, 0 where there is no training row.
        kin: who is alike.
        vector_PK, known_P: unit vectors of the perturbations, and whether anything is known of each.
        vector_GK, known_G: the same for genes.
    """

    perts: pd.Index
    genes: pd.Index
    label_PG: npt.NDArray[np.int8]
    kin: Kin
    vector_PK: Floats
    known_P: Bools
    vector_GK: Floats
    known_G: Bools


def line_labels(train: pd.DataFrame, line: str, kin: Kin) -> LineLabels:
    """Return the training labels of a line with its kin.

    Args:
        train: training rows with `cell_line`, `pert`, `gene`, `label`.
        line: the cell line.
        kin: of this line, from `fit_kin`.
    """
    here = train[train["cell_line"].astype(str) == line]
    pert, gene = (here[column].astype(str).to_numpy() for column in ("pert", "gene"))
    perts, genes = (pd.Index(np.unique(column)) for column in (pert, gene))
    vectors = (*kin.pert_vectors(map(str, perts)), *kin.gene_vectors(map(str, genes)))
    label_PG = np.zeros((len(perts), len(genes)), dtype=np.int8)
    label_PG[perts.get_indexer(pd.Index(pert)), genes.get_indexer(pd.Index(gene))] = 1 + label_codes(here)
    return LineLabels(perts, genes, label_PG, kin, *vectors)


def nearest_knockdowns(rows: LineLabels, items: pd.DataFrame, k: int, labels: Sequence[Label] = LABELS) -> pd.DataFrame:
    """Return the k nearest knockdowns of each item that were measured on its gene.

    Args:
        rows: labels of the items' line.
        items: items of that line, with `item_id`, `pert`, `gene`.
        k: knockdowns per item, at least 1.
        labels: only knockdowns that did one of these to the gene.

    Returns:
        `item_id, rank, pert, similarity, label`, the nearest first; no rows for an item where nothing is known.
    """
    asked = np.array([False, *(label in labels for label in LABELS)])  # by code; 0 is no training row
    gene_N = rows.genes.get_indexer(pd.Index(items["gene"].astype(str)))
    item_id, pert = items["item_id"].to_numpy(), items["pert"].astype(str).to_numpy()
    parts = []
    for name, order, similarity_Q in _nearest_perts(rows, pert[gene_N >= 0]):
        mine = np.flatnonzero((pert == name) & (gene_N >= 0))
        label_QM = rows.label_PG[np.ix_(order, gene_N[mine])]
        seen_QM = asked[label_QM]
        rank_QM = np.cumsum(seen_QM, axis=0)
        q, m = np.nonzero(seen_QM & (rank_QM <= k))
        parts.append((item_id[mine[m]], rank_QM[q, m], rows.perts[order[q]], similarity_Q[q], label_QM[q, m]))
    return _frame(parts, EVIDENCE_COLUMNS)


def similar_pairs(rows: LineLabels, items: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return the k training pairs most similar to each item: a kin of its knockdown, and a kin of its gene.

    The similarity of a pair is the product of the two cosines, both above 0. Pairs are looked for among the 50 nearest
    knockdowns and the 50 nearest genes. A pair has neither the item's knockdown nor its gene, so that the item's gene
    need not have a training row.

    Args:
        rows: labels of the items' line.
        items: items of that line, with `item_id`, `pert`, `gene`.
        k: pairs per item, at least 1.

    Returns:
        `item_id, rank, pert, gene, similarity, label`, the most similar first; no rows where nothing is known.
    """
    gene = items["gene"].astype(str).to_numpy()
    near_genes = {name: (order, cosine) for name, order, cosine in _nearest_genes(rows, gene)}
    item_id, pert = items["item_id"].to_numpy(), items["pert"].astype(str).to_numpy()
    parts = []
    for name, order, similarity_Q in _nearest_perts(rows, pert):
        near = similarity_Q[:_NEAREST] > 0
        order_Q, cosine_Q = order[:_NEAREST][near], similarity_Q[:_NEAREST][near]
        for at in np.flatnonzero(pert == name):
            if gene[at] not in near_genes:
                continue
            order_H, cosine_H = near_genes[gene[at]]
            label_QH = rows.label_PG[np.ix_(order_Q, order_H)]
            product_QH = np.where(label_QH > 0, np.round(np.outer(cosine_Q, cosine_H), 12), 0.0)
            best = np.argsort(-product_QH, axis=None, kind="stable")[:k]
            q, h = np.unravel_index(best[product_QH.flat[best] > 0], product_QH.shape)
            names = (rows.perts[order_Q[q]], rows.genes[order_H[h]])
            parts.append((np.repeat(item_id[at], len(q)), np.arange(len(q)) + 1, *names, product_QH[q, h],
                          label_QH[q, h]))  # fmt: skip
    return _frame(parts, PAIR_COLUMNS)


def _nearest_perts(rows: LineLabels, perts: Iterable[str]) -> list[tuple[str, Ints, Floats]]:
    """Return for each known perturbation once: its name, all other known ones in order, and their similarities."""
    names = list(dict.fromkeys(perts))
    return _nearest(names, *rows.kin.pert_vectors(names), rows.perts, rows.vector_PK, rows.known_P)


def _nearest_genes(rows: LineLabels, genes: Iterable[str]) -> list[tuple[str, Ints, Floats]]:
    """Return for each known gene once: its name, the 50 nearest others that are similar at all, and the cosines."""
    names = list(dict.fromkeys(genes))
    found = _nearest(names, *rows.kin.gene_vectors(names), rows.genes, rows.vector_GK, rows.known_G)
    kept = [(name, order[:_NEAREST], cosine[:_NEAREST]) for name, order, cosine in found]
    return [(name, order[cosine > 0], cosine[cosine > 0]) for name, order, cosine in kept]


def _nearest(
    names: Sequence[str], vector_NK: Floats, known_N: Bools, others: pd.Index, vector_MK: Floats, known_M: Bools
) -> list[tuple[str, Ints, Floats]]:
    found = []
    own_N = others.get_indexer(pd.Index(names, dtype=object))
    for at in np.flatnonzero(known_N):
        cosine_M = np.round(vector_MK @ vector_NK[at], 12)
        order = np.argsort(-cosine_M, kind="stable")
        order = order[known_M[order] & (order != own_N[at])]
        found.append((str(names[at]), order, cosine_M[order]))
    return found


def _frame(parts: Sequence[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Put parts together, each with one array for each column; labels are codes."""
    if not parts:
        return pd.DataFrame(columns=list(columns))
    found = {name: np.concatenate([np.asarray(part[at]) for part in parts]) for at, name in enumerate(columns)}
    found["label"] = np.array([str(label) for label in LABELS], dtype=object)[found["label"] - 1]
    return pd.DataFrame(found)
