"""Predicted changes of expression, perturbation x gene, as GEARS, scGPT and their kin give them.

Such a table has one number for a pair, so three probabilities must come of one number. For the change x of a pair:

    p_de = |x| / (|x| + c)
    p_dir = (1 + sign(x) p_de) / 2

`p_de` is the probability of a change, and grows with the size of x alone. `p_dir` is the probability of up given a
change, and grows with x; it is above one half where x is above 0. Both are strictly monotone, so that two pairs have
equal scores only where the table has equal numbers (to 12 digits). AUROC therefore does not depend on c within a line.

c is the size from which a pair counts as changed, and it is where p_de is one half. In each cell line it is chosen so
that the share of pairs that count as changed is the share of the training items that change. No label of a test item
is used, and the probabilities are not calibrated beyond that share.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.imported.changes import MAPPED, Changes, Floats, read_changes
from benchmarks.evaluation.imported.columns import KEYS
from benchmarks.evidence.corpus import Corpus
from rewards import InputError, Label

RULE: Final = (
    "p_de = |x| / (|x| + c), p_dir = (1 + sign(x) p_de) / 2; x is the change, c the smallest size that counts as one"
)
NO_PERTURBATION: Final = "perturbation not in the files"
NO_GENE: Final = "gene not in the files"
NO_VALUE: Final = "no value"
_SHOWN: Final = 3  # names shown in an error


@dataclass(frozen=True)
class ScoredChanges:
    """The test items that files of predicted changes are about.

    Attributes:
        table: a row for each item with a change: `cell_line, pert, gene, p_de, p_dir, file, row` (row of `table`).
        smallest_change: by cell line, the size from which a pair counts as changed; c of the rule.
        missing: number of test items without a change, by reason.
        unused: number of perturbations in the files (by line) that no test item has.
    """

    table: pd.DataFrame
    smallest_change: dict[str, float]
    missing: dict[str, int]
    unused: int


def score_changes(
    files: Sequence[tuple[str | None, Path]],
    corpus: Corpus,
    *,
    columns: Mapping[str, str] | None = None,
    control: str | None = None,
) -> ScoredChanges:
    """Read predicted changes and score the test items of a corpus.

    Args:
        files: cell line (None where the file tells it) and path of each file; see `read_changes`.
        corpus: labels under a split.
        columns: from our names (`MAPPED`) to those of the files.
        control: name of the unperturbed cells, if the files hold levels of expression; these are subtracted.

    Returns:
        The items with their scores.

    Raises:
        InputError: see `read_changes`; or two files have one item, or no item has a change.
    """
    for ours in columns or {}:
        if ours not in MAPPED:
            raise InputError(f"columns: {ours!r} is unknown; map one of {', '.join(MAPPED)}")
    items = corpus.test
    found = [read_changes(line, path, corpus, columns or {}, control) for line, path in files]
    change_N, file_N = np.full(len(items), np.nan), np.full(len(items), -1)
    reason_N = np.full(len(items), NO_PERTURBATION, dtype=object)
    line_N, pert_N, gene_N = (items[key].astype(str) for key in KEYS)
    key_N = pd.Index(line_N + "|" + pert_N)
    for at, changes in enumerate(found):
        row_N, column_N = changes.rows.get_indexer(key_N), changes.genes.get_indexer(pd.Index(gene_N))
        here_N = (row_N >= 0) & (column_N >= 0)
        value_N = np.full(len(items), np.nan)
        value_N[here_N] = changes.value_RG[row_N[here_N], column_N[here_N]]
        new_N = ~np.isnan(value_N)
        if (twice := np.flatnonzero(new_N & (file_N >= 0))).size:
            item = items["item_id"].iloc[twice[0]]
            raise InputError(f"{changes.file}: {item} is also in {found[file_N[twice[0]]].file}; leave one out")
        change_N[new_N], file_N[new_N] = value_N[new_N], at
        reason_N[(row_N >= 0) & (column_N < 0) & (reason_N == NO_PERTURBATION)] = NO_GENE
        reason_N[here_N & ~new_N] = NO_VALUE
    known_N = file_N >= 0
    if not known_N.any():
        raise _nothing_found(found, items, set(reason_N))
    lines = line_N[known_N].to_numpy()
    p_de, p_dir, smallest = _probabilities(change_N[known_N], lines, _share_changed(corpus))
    table = items[known_N][list(KEYS)].astype(str).reset_index(drop=True)
    table = table.assign(p_de=p_de, p_dir=p_dir, file=[str(found[at].file) for at in file_N[known_N]])
    reasons = pd.Series(reason_N[~known_N]).value_counts()
    asked = set(key_N)
    return ScoredChanges(
        table=table.assign(row=np.arange(1, len(table) + 1)),
        smallest_change=smallest,
        missing={str(reason): int(count) for reason, count in reasons.items()},
        unused=len({row for changes in found for row in changes.rows} - asked),
    )


def _share_changed(corpus: Corpus) -> float:
    """The share of training items that change."""
    counts = corpus.train_counts
    return 1.0 - counts[Label.NONE] / sum(counts.values())


def _probabilities(change_N: Floats, line_N: npt.NDArray[Any], share: float) -> tuple[Floats, Floats, dict[str, float]]:
    """Return p_de and p_dir of the rule, (N,), and c by cell line."""
    size_N, c_N, smallest = np.abs(change_N), np.ones(len(change_N)), {}
    for line in pd.unique(line_N):
        here = line_N == line
        ordered = np.sort(size_N[here])[::-1]
        positive = ordered[ordered > 0]
        if positive.size:  # without a change of any size, nothing counts as changed
            wanted = min(max(round(share * len(ordered)), 1), len(positive))
            smallest[str(line)] = float(positive[wanted - 1])
            c_N[here] = smallest[str(line)]
    p_de = size_N / (size_N + c_N)
    return p_de, (1 + np.sign(change_N) * p_de) / 2, smallest


def _nothing_found(found: Sequence[Changes], items: pd.DataFrame, reasons: Collection[str]) -> InputError:
    no_change = f"{found[0].file}: no test item has a change here"
    if NO_VALUE in reasons:
        return InputError(f"{no_change}; the cells of its test items are empty, fill them in")
    if NO_GENE in reasons:
        genes = ", ".join(map(repr, items["gene"].astype(str).unique()[:_SHOWN]))
        return InputError(
            f"{no_change}; it has test perturbations, but none of the test items' genes ({genes}, …), whose letter "
            "case counts, so check its genes' names"
        )
    theirs = [row for changes in found for row in changes.rows[:_SHOWN]]
    ours = (items["cell_line"].astype(str) + "|" + items["pert"].astype(str)).unique()[:_SHOWN]
    return InputError(
        f"{no_change}; the rows of the files are {', '.join(map(repr, theirs))}, … and the test items "
        f"{', '.join(map(repr, ours))}, … (cell line|perturbation), so check that perturbations are rows and genes "
        "columns, names, --map and the split"
    )
