"""Gene sets of a GMT file that hold both genes of an item: the kind `gene_sets`. It quotes no label."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import QUOTE_COLUMNS, EvidenceKind
from rewards import InputError
from rewards.gene_sets import read_gene_sets

GENE_SETS: Final = "Gene sets with both genes (size):"


def quote_gene_sets(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return the `QUOTE_COLUMNS` of the k smallest sets that hold both genes of an item; equal sizes by name.

    Raises:
        InputError: the file cannot be read (`read_gene_sets`), or holds no gene of the labels.
    """
    assert kind.file is not None
    sets = read_gene_sets(kind.file)
    names_of: dict[str, set[str]] = defaultdict(set)
    for name, genes in sets.items():
        for gene in genes:
            names_of[gene].add(name)
    if not any(gene in names_of for gene in corpus.labels["gene"].astype(str).unique()):
        raise InputError(f"{kind.file}: holds none of the labels' genes; give a file with their symbols (case counts)")
    rows = []
    nothing: set[str] = set()
    for item_id, pert, gene in zip(items["item_id"], items["pert"], items["gene"], strict=True):
        both = names_of.get(pert, nothing) & names_of.get(gene, nothing)
        smallest = sorted(both, key=lambda name: (len(sets[name]), name))[: kind.k]
        rows += [(item_id, rank, name, float(len(sets[name])), "") for rank, name in enumerate(smallest, start=1)]
    return pd.DataFrame(rows, columns=QUOTE_COLUMNS)


def write_gene_sets(rows: Sequence[Any], pert: str, gene: str) -> list[str]:
    """Write one line for each set."""
    return [f"{row.name} ({row.value:.0f} genes)" for row in rows]
