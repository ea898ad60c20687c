"""What kin of an item's knockdown did to genes that respond like the item's: the kind `similar_genes`.

It holds for a gene that has no training row, if the other lines or the reference screen know it; see
`benchmarks.evidence.alike`.
"""

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import QUOTE_COLUMNS, EvidenceKind
from rewards import InputError

SIMILAR_GENES: Final = "Similar knockdowns on genes that respond like {gene} (similarity):"


def quote_similar_genes(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return the `QUOTE_COLUMNS` of the training pairs most similar to each item's.

    Raises:
        InputError: the corpus is the sample, which lacks most training rows.
    """
    if corpus.is_sample:
        raise InputError("evidence: similar_genes needs the full labels, not the sample (synthpert data fetch)")
    found = corpus.similar_pairs(items, kind.k)
    named = found.assign(name=found["pert"].astype(str) + " on " + found["gene"].astype(str), value=found["similarity"])
    return named[QUOTE_COLUMNS]


def write_similar_genes(rows: Sequence[Any], pert: str, gene: str) -> list[str]:
    """Write one line for each pair."""
    return [f"{row.name} ({row.value:.1f}): {row.label}" for row in rows]
