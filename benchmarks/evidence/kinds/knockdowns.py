"""What similar knockdowns did to the same gene in the same line: the kinds `neighbours` and `contrast`.

`contrast` sets knockdowns that changed the gene beside some that did not, a layout that helps language models
(CORE, arXiv 2606.01042). Similarity is that of `benchmarks.evidence.neighbours`. No label of the item's own knockdown
in its line is quoted.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import QUOTE_COLUMNS, EvidenceKind
from rewards import Label

NEIGHBOURS: Final = "Similar knockdowns (similarity) and {gene}:"
CONTRAST: Final = "Similar knockdowns (similarity) that change {gene} | that do not:"
_CHANGED: Final = (Label.UP, Label.DOWN)


def quote_neighbours(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return the `QUOTE_COLUMNS` of the most similar knockdowns; see `Corpus.evidence`."""
    return _named(corpus.evidence(items, kind.k))


def write_neighbours(rows: Sequence[Any], pert: str, gene: str) -> list[str]:
    """Write one line for each knockdown."""
    return [f"{row.name} ({row.value:.1f}): {row.label}" for row in rows]


def quote_contrast(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return the `QUOTE_COLUMNS` of the most similar knockdowns that changed the gene, and of those that did not."""
    sides = [corpus.evidence(items, kind.k, labels) for labels in (_CHANGED, (Label.NONE,))]
    return _named(pd.concat([side for side in sides if len(side)] or sides[:1], ignore_index=True))


def write_contrast(rows: Sequence[Any], pert: str, gene: str) -> list[str]:
    """Write one line for each rank: a knockdown that changed the gene, and one that did not."""
    changed = [f"{row.name} ({row.value:.1f}): {row.label}" for row in rows if row.label != Label.NONE]
    unchanged = [f"{row.name} ({row.value:.1f})" for row in rows if row.label == Label.NONE]
    return [f"{left} | {right}" for left, right in zip_longest(changed, unchanged, fillvalue="-")]


def _named(found: pd.DataFrame) -> pd.DataFrame:
    return found.rename(columns={"pert": "name", "similarity": "value"})[QUOTE_COLUMNS]
