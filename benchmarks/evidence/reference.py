"""A reference screen: the labels of another screen, all of which evidence and baselines may use.

Its symbols may be those of another species. The key `orthologs` says how a symbol of ours becomes one of the reference:

- not set: the two symbols are equal, letter for letter;
- `upper`: ours in upper case. That is a fallback for mouse and human, whose symbols mostly differ in letter case alone;
- a table with the columns `from` (ours) and `to` (the reference's). A symbol that is not in the table has no
  counterpart.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import pandas as pd

from benchmarks.files import file_sha256
from benchmarks.screens.labels import data_source, load_screen
from benchmarks.screens.schema import digest, lines_of
from benchmarks.screens.screen import Screen
from benchmarks.screens.table import is_table, read_symbols, table_sha256
from rewards import InputError, Label

UPPER: Final = "upper"
_COPIED: Final = 20  # so many changes, without a label that differs, two measurements have not by chance
EVIDENCE_FROM_HELP: Final = "labels of another screen that evidence may use, in the words of `data`"
ORTHOLOGS_HELP: Final = "table of symbols, from ours to that screen's; or `upper`: ours in upper case"


@dataclass(frozen=True, eq=False)
class Reference:
    """Labels of another screen; made by `open_reference`.

    Attributes:
        source: where the labels are.
        screen: what is known of them besides.
        labels: `item_id, cell_line, pert, gene, label, split`; every row counts, whatever its split there.
        orthologs: from our symbols to those of the reference; `upper` or None as in the description of this file.
    """

    source: str
    screen: Screen = field(repr=False)
    labels: pd.DataFrame = field(repr=False)
    orthologs: Mapping[str, str] | Literal["upper"] | None = field(default=None, repr=False)

    def name_of(self, symbol: str) -> str | None:
        """Return the reference's symbol of a gene of ours; None where the table of symbols has none."""
        if self.orthologs is None:
            return symbol
        return symbol.upper() if isinstance(self.orthologs, str) else self.orthologs.get(symbol)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over its labels, what prompts call its lines, and the table of symbols."""
        words = {line: self.screen.words(line) for line in lines_of(self.labels)}
        symbols = self.orthologs if self.orthologs is None or isinstance(self.orthologs, str) else {**self.orthologs}
        facts = json.dumps([digest(self.labels), words, symbols], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    def without_lines(self, lines: Collection[str]) -> "Reference":
        """Return the reference without the rows of some cell lines, whatever their letter case.

        Args:
            lines: the cell lines.

        Raises:
            InputError: no row is left.
        """
        folded = {line.casefold() for line in lines}
        labels = self.labels[~self.labels["cell_line"].astype(str).str.casefold().isin(folded)]
        if labels.empty:
            raise InputError(
                f"evidence_from: {self.source} has only rows of {', '.join(sorted(lines))}. Genes and sets of genes in "
                "the same cells tell each other's labels; use another screen"
            )
        return replace(self, labels=labels.reset_index(drop=True))

    def refuse_items(self, labels: pd.DataFrame) -> None:
        """Refuse to be the reference of labels that have an item in common with it, training or test.

        Letter case does not count, and neither does by which of the two screens' symbols an item goes. A common test
        item would give its own answer. A common training item would teach a model to copy.

        Args:
            labels: N items with `item_id`, `cell_line`, `pert`, `gene`.

        Raises:
            InputError: there is such an item.
        """
        lines = {line.casefold() for line in lines_of(labels)}
        there = self.labels[self.labels["cell_line"].astype(str).str.casefold().isin(lines)]
        if there.empty:
            return
        theirs = _keys(there, lambda symbol: symbol)
        shared = _keys(labels, lambda symbol: symbol).isin(theirs) | _keys(labels, self.name_of).isin(theirs)
        if shared.any():
            raise InputError(
                f"evidence_from: {self.source} holds {int(shared.sum()):,} items of the labels (first: "
                f"{labels['item_id'][shared].iloc[0]}), whose answers it would give; use another screen, or a table "
                "without these rows"
            )

    def refuse_copy(self, labels: pd.DataFrame) -> None:
        """Refuse to be the reference of labels that are the reference's own under another name of the cell line.

        Args:
            labels: N items with `cell_line`, `pert`, `gene`, `label`.

        Raises:
            InputError: all pairs of a cell line of the labels are pairs of one of the reference, or the other way, with
                at least 20 changes among them and no label that differs.
        """
        ours, theirs = _pairs(labels, self.name_of), _pairs(self.labels, lambda symbol: symbol)
        both = ours.merge(theirs, on=["pert", "gene"], suffixes=("", "_there"))
        n_ours, n_theirs = ours["cell_line"].value_counts(), theirs["cell_line"].value_counts()
        for _, rows in both.groupby(["cell_line", "cell_line_there"]):
            line, there = rows["cell_line"].iloc[0], rows["cell_line_there"].iloc[0]
            n_changes = (rows["label"] != str(Label.NONE)).sum()
            within = len(rows) in (n_ours[line], n_theirs[there])
            if within and n_changes >= _COPIED and (rows["label"] == rows["label_there"]).all():
                raise InputError(
                    f"evidence_from: {self.source}: {there} has the labels of {line} in all {len(rows):,} pairs that "
                    "both hold, so it is the same screen under another name, whose answers it would give; use another "
                    "screen"
                )

    def known(self, labels: pd.DataFrame) -> dict[str, tuple[int, int]]:
        """Count the perturbations (`pert`) and genes (`gene`) of labels: those that the reference has, and all.

        Args:
            labels: N items with `pert`, `gene`.
        """
        counts = {}
        for column in ("pert", "gene"):
            ours, theirs = (frozenset(map(str, rows[column].unique())) for rows in (labels, self.labels))
            counts[column] = sum(self.name_of(symbol) in theirs for symbol in ours), len(ours)
        return counts

    def refuse_strangers(self, labels: pd.DataFrame) -> None:
        """Refuse to be the reference of labels of whose symbols it has none, since it would tell nothing of them.

        Args:
            labels: N items with `pert`, `gene`.

        Raises:
            InputError: the reference has no perturbation and no gene of the labels.
        """
        if not any(known for known, _ in self.known(labels).values()):
            ours, theirs = (min(map(str, rows["gene"].unique())) for rows in (labels, self.labels))
            raise InputError(
                f"evidence_from: {self.source} has no perturbation and no gene of the labels (whose genes are like "
                f"{ours}, and its own like {theirs}); say with orthologs what they are called there, or use another "
                "screen"
            )


def _pairs(rows: pd.DataFrame, name_of: Callable[[str], str | None]) -> pd.DataFrame:
    """Return `cell_line, pert, gene, label` of rows, names in lower case, without rows of a symbol without name."""
    columns = rows[["cell_line", "pert", "gene", "label"]].astype(str)
    for column in ("pert", "gene"):
        names = {symbol: name_of(symbol) for symbol in columns[column].unique()}
        columns[column] = columns[column].map({ours: name and name.casefold() for ours, name in names.items()})
    return columns.dropna()


def _keys(rows: pd.DataFrame, name_of: Callable[[str], str | None]) -> pd.Series:
    """Return (N,) keys that are equal for two rows of the same item; no item has the key of a symbol without name."""
    parts = [rows["cell_line"].astype(str).str.casefold()]
    for column in ("pert", "gene"):
        names = {symbol: (name_of(symbol) or " ").casefold() for symbol in map(str, rows[column].unique())}
        parts.append(rows[column].astype(str).map(names))
    return parts[0] + "|" + parts[1] + "|" + parts[2]


def open_reference(evidence_from: str | Path | None, orthologs: str | Path | None = None) -> Reference | None:
    """Load the labels of a reference screen.

    Args:
        evidence_from: where they are, in the words of `data`; None for no reference.
        orthologs: `upper`, a table of symbols, or None, as in the description of this file.

    Returns:
        The reference; None for none.

    Raises:
        InputError: the labels or the table cannot be read, or there is a table without a reference.
    """
    if evidence_from is None:
        if orthologs is not None:
            raise InputError("orthologs: is set, but no screen whose symbols these are; name it with --evidence_from")
        return None
    screen, labels = load_screen(evidence_from)
    return Reference(data_source(evidence_from), screen, labels, _read_orthologs(orthologs))


def _read_orthologs(orthologs: str | Path | None) -> Mapping[str, str] | Literal["upper"] | None:
    if orthologs is None:
        return None
    return UPPER if str(orthologs) == UPPER else read_symbols(_ortholog_file(orthologs))


def _ortholog_file(orthologs: str | Path) -> Path:
    path = Path(orthologs).expanduser()
    if not path.is_file():
        raise InputError(f"orthologs: {path}: no such file; give a table with the columns from and to, or `upper`")
    return path


def reference_inputs(evidence_from: str | Path | None, orthologs: str | Path | None = None) -> dict[str, str]:
    """Return the digests of the files of a reference by the key that names them, for `open_run`.

    There is none for PerturbQA's files and the sample, which never change.
    """
    if evidence_from is None:
        return {}
    named = data_source(evidence_from)
    inputs = {"evidence_from": table_sha256(named)} if is_table(named) else {}
    if orthologs is not None and str(orthologs) != UPPER:
        inputs["orthologs"] = file_sha256(_ortholog_file(orthologs))
    return inputs
