"""The test items that rows of a file are about, and why a row is about none."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.imported.columns import KEYS, SCORES
from benchmarks.evidence.corpus import Corpus
from rewards import Label


@dataclass(frozen=True)
class MatchedRows:
    """The rows of a file that match test items.

    Attributes:
        rows: N rows under our names.
        items: (N,) the items.
        unmatched: the other rows, with reasons.
        n_items: number of test items of the file's tasks.
    """

    rows: pd.DataFrame
    items: pd.DataFrame
    unmatched: pd.DataFrame
    n_items: int


def match_rows(table: pd.DataFrame, corpus: Corpus) -> MatchedRows:
    """Find the item of each row. A file with directions alone is matched to the items that change."""
    direction_only = SCORES & set(table) == {"p_dir"}
    reasons = _reasons(table, corpus, direction_only=direction_only)
    unmatched = table.loc[reasons != "", ["file", "row", *KEYS]].assign(reason=reasons[reasons != ""])
    rows = table[reasons == ""].reset_index(drop=True)
    candidates = corpus.test[corpus.test["label"].astype("str") != str(Label.NONE)] if direction_only else corpus.test
    at = pd.Index(candidates["item_id"]).get_indexer(pd.Index(item_ids(rows, corpus)))
    items = candidates.iloc[at].reset_index(drop=True)
    return MatchedRows(rows, items, unmatched, len(candidates))


def item_ids(table: pd.DataFrame, corpus: Corpus) -> pd.Series:
    line, pert, gene = (table[key].astype("str") for key in KEYS)
    return as_lines(line, corpus) + "|" + pert.str.strip() + "|" + gene.str.strip()


def as_lines(column: pd.Series, corpus: Corpus) -> pd.Series:
    """Cell lines as the labels write them, whichever letter case they have; others in lower case."""
    plain = column.str.strip()
    return plain.str.casefold().map(corpus.line_names).fillna(plain.str.lower()).astype("str")


def _reasons(table: pd.DataFrame, corpus: Corpus, *, direction_only: bool) -> npt.NDArray[Any]:
    """(N,) why a row matches no test item; "" where it matches one."""
    at = pd.Index(corpus.labels["item_id"]).get_indexer(pd.Index(item_ids(table, corpus)))
    known = at >= 0
    line = as_lines(table["cell_line"].astype("str"), corpus).isin(corpus.lines).to_numpy()
    is_test = np.where(known, (corpus.labels["split"] == "test").to_numpy()[at], False)
    reasons = np.full(len(table), "", dtype=object)
    reasons[~line] = f"the cell line is none of {', '.join(corpus.lines)}"
    where = "the sample" if corpus.is_sample else corpus.screen.name
    reasons[line & ~known] = f"{where} has no such perturbation and gene in this cell line"
    reasons[known & ~is_test] = f"a training item under the split {corpus.split}"
    if direction_only:
        unchanged = (corpus.labels["label"].astype("str") == str(Label.NONE)).to_numpy()[at]
        reasons[known & is_test & unchanged] = "not differentially expressed, so it has no direction"
    return reasons
