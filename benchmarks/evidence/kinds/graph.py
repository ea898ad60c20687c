"""The edge between an item's genes and the partners of both, from an edge list: the kind `graph`. It quotes no label.

The file is a CSV or TSV with the columns `gene1, gene2, score`, one row an edge without direction. Scores are numbers
above 0 on any scale, such as STRING's combined score.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import QUOTE_COLUMNS, EvidenceKind
from benchmarks.tables import check_kind, read_table
from rewards import InputError

GRAPH: Final = "Network of {pert} and {gene} (score):"
_COLUMNS: Final = ("gene1", "gene2", "score")


def read_graph(path: Path) -> dict[str, dict[str, float]]:
    """Read an edge list.

    Args:
        path: the file; see this module.

    Returns:
        For each gene its partners with the score of their edge, the highest where an edge is listed more than once. An
        edge of a gene with itself is left out.

    Raises:
        InputError: the file is missing or empty, lacks a column, or a row lacks a gene or a score above 0.
    """
    check_kind(path, (".csv", ".tsv"))
    table = read_table(path, _COLUMNS)
    for column in _COLUMNS:
        if column not in table.frame:
            raise InputError(f"{path}: no column {column!r}; name the columns gene1, gene2 and score")
    if table.frame.empty:
        raise InputError(f"{path}: has no edge; give an edge list")
    for column in _COLUMNS[:2]:
        table.refuse(table.frame[column].isna(), f"no {column}; remove the row")
    score_E = pd.to_numeric(table.frame["score"], errors="coerce").to_numpy(dtype=float)
    table.refuse(table.frame["score"].isna(), "no score; write a number above 0, or remove the row")
    table.refuse(~(np.isfinite(score_E) & (score_E > 0)), "write a number above 0", "score")
    partners: dict[str, dict[str, float]] = defaultdict(dict)
    for one, other, score in zip(table.frame["gene1"], table.frame["gene2"], score_E.tolist(), strict=True):
        if one != other:
            for left, right in ((one, other), (other, one)):
                partners[left][right] = max(score, partners[left].get(right, 0.0))
    return dict(partners)


def quote_graph(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return the `QUOTE_COLUMNS` of the edge between an item's genes (its name is empty), then of partners of both.

    The score of a partner is that of the weaker of its two edges. The k strongest are quoted, equals by name.

    Raises:
        InputError: the file cannot be read (`read_graph`), or holds no gene of the labels.
    """
    assert kind.file is not None
    partners = read_graph(kind.file)
    if not any(gene in partners for gene in corpus.labels["gene"].astype(str).unique()):
        raise InputError(f"{kind.file}: holds none of the labels' genes; give a file with their symbols (case counts)")
    rows = []
    nothing: dict[str, float] = {}
    for item_id, pert, gene in zip(items["item_id"], items["pert"], items["gene"], strict=True):
        of_pert, of_gene = partners.get(pert, nothing), partners.get(gene, nothing)
        shared = {name: min(of_pert[name], of_gene[name]) for name in of_pert.keys() & of_gene.keys()}
        found = sorted(shared.items(), key=lambda entry: (-entry[1], entry[0]))[: kind.k]
        if gene in of_pert:
            found = [("", of_pert[gene]), *found]
        rows += [(item_id, rank, name, score, "") for rank, (name, score) in enumerate(found, start=1)]
    return pd.DataFrame(rows, columns=QUOTE_COLUMNS)


def write_graph(rows: Sequence[Any], pert: str, gene: str) -> list[str]:
    """Write the edge, then one line for each partner."""
    return [f"{f'both with {row.name}' if row.name else f'{pert} - {gene}'} ({row.value:g})" for row in rows]
