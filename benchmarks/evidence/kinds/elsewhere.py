"""The same knockdown and gene in other cell lines: the kind `other_lines`.

Quoted are training labels of the corpus's other lines, then labels of the reference screen, where there is one. Where
perturbations or genes are held out, the other lines know no test item's pair, and none is quoted (`unseen_columns`).
"""

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import QUOTE_COLUMNS, EvidenceKind
from benchmarks.evidence.reference import Reference
from benchmarks.screens.schema import lines_of
from rewards import InputError

OTHER_LINES: Final = "The same knockdown and {gene} in other cell lines:"


def quote_other_lines(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return the `QUOTE_COLUMNS` of each item's pair in the other lines, in the order of the screens' lines.

    Raises:
        InputError: the corpus is the sample, whose rows are not all that training has.
    """
    if corpus.is_sample:
        raise InputError("evidence: other_lines needs the full labels, not the sample (synthpert data fetch)")
    asked = items[["item_id", "cell_line", "pert", "gene"]].astype(str)
    trained = corpus.train.head(0) if corpus.unseen_columns else corpus.train
    found = asked.merge(_rows_of(trained), on=["pert", "gene"])
    found = found[found["line"] != found["cell_line"]]
    parts = [_in_order(found, {line: corpus.screen.words(line) for line in corpus.lines})]
    if (reference := corpus.reference) is not None:
        named = asked.assign(**{column: _names(asked[column], reference) for column in ("pert", "gene")})
        there = named.merge(_rows_of(reference.labels), on=["pert", "gene"])
        words = {
            line: f"{reference.screen.words(line)}, {reference.screen.name}" for line in lines_of(reference.labels)
        }
        parts.append(_in_order(there, words))
    both = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return both.assign(rank=both.groupby("item_id").cumcount() + 1, value=1.0)[QUOTE_COLUMNS]


def _rows_of(labels: pd.DataFrame) -> pd.DataFrame:
    columns = labels[["cell_line", "pert", "gene", "label"]].astype(str)
    return columns.rename(columns={"cell_line": "line"})


def _in_order(found: pd.DataFrame, words: dict[str, str]) -> pd.DataFrame:
    at = found["line"].map({line: at for at, line in enumerate(words)})
    return found.assign(at=at, name=found["line"].map(words)).sort_values("at", kind="stable")


def _names(symbols: "pd.Series[str]", reference: Reference) -> "pd.Series[str]":
    return symbols.map({symbol: reference.name_of(symbol) for symbol in symbols.unique()})


def write_other_lines(rows: Sequence[Any], pert: str, gene: str) -> list[str]:
    """Write one line for each cell line."""
    return [f"{row.name}: {row.label}" for row in rows]
