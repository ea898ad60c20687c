"""Pairs without a label as prompts. Soft and mixed verifiers let GRPO train on them too."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.screens.symbols import gene_of, wrong_symbol
from benchmarks.tables import Table, read_table
from rewards import InputError
from rewards.composition import Component
from rewards.verifiers import HardVerifier

COLUMNS: Final = ("cell_line", "pert", "gene")


def read_unlabelled(path: Path, corpus: Corpus) -> pd.DataFrame:
    """Read the unlabelled pairs that GRPO will ask about.

    Args:
        path: a table (`benchmarks.tables`) with the columns `cell_line`, `pert`, `gene`. White space around a value is
            removed. Other columns are ignored.
        corpus: the labelled items. None of them may be in the file, not even under another name of its genes: a
            labelled pair belongs with its label, and a test pair must not be trained on.

    Returns:
        `item_id, cell_line, pert, gene, label`, with an empty label.

    Raises:
        InputError: one of the following. The message names file and row.

            - The file or a column is missing.
            - A value is empty, contains a `|`, or is no gene symbol.
            - A cell line is unknown.
            - A pair occurs twice, is a labelled item, or has a symbol that the split holds out.
    """
    table = read_table(path, COLUMNS)
    frame = _pairs_of(table)
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    _check_pairs(table, frame, corpus)
    return frame.assign(label="")


def _pairs_of(table: Table) -> pd.DataFrame:
    """Return the three columns of a file as text, without white space around each value."""
    frame, path = table.frame, table.path
    for name in COLUMNS:
        if name not in frame:
            raise InputError(f"{path}: no column {name!r}; unlabelled pairs have {', '.join(COLUMNS)}")
    if frame.empty:
        raise InputError(f"{path}: has no rows; add pairs, or remove the key unlabelled")
    frame = frame[list(COLUMNS)].fillna("").astype(str).reset_index(drop=True)
    for name in COLUMNS:
        frame[name] = frame[name].str.strip()
    return frame


def _check_pairs(table: Table, frame: pd.DataFrame, corpus: Corpus) -> None:
    """Refuse the first pair that cannot be a prompt.

    Args:
        table: the file, for the row that the error names.
        frame: `item_id` and the three columns.
        corpus: as in `read_unlabelled`.
    """
    same = _identity(frame)
    held_out = frame["item_id"].map(corpus.holds_out).astype(bool)
    known = set(_identity(corpus.labels[list(COLUMNS)].astype(str)))
    withheld = set(_identity(corpus.unlabelled[list(COLUMNS)]))
    symbols = {*corpus.labels["pert"], *corpus.labels["gene"]}
    parts = frame[list(COLUMNS)]
    barred = parts.apply(lambda values: values.str.contains("|", regex=False)).any(axis=1)
    for wrong, problem, remedy in (
        ((parts == "").any(axis=1), "has an empty value", "fill it in"),
        (barred, "has a | in a name", "remove the |"),
        (~frame["cell_line"].isin(corpus.lines), "has an unknown cell line", f"use {', '.join(corpus.lines)}"),
        *_wrong_symbols(frame, symbols),
        (same.duplicated(), "occurs twice", "give each pair once"),
        (same.isin(known), f"is an item of {corpus.screen.name}, which has a label", "remove the row"),
        (same.isin(withheld), f"is a test item of {corpus.screen.name}", "remove the row"),
        (held_out, f"has a perturbation or gene that split {corpus.split} holds out", "remove the row"),
    ):
        if wrong.any():
            table.refuse(wrong, f"{frame['item_id'][wrong].iloc[0]} {problem}; {remedy}")


def _identity(pairs: pd.DataFrame) -> pd.Series:
    """Return (N,) keys that are equal for two rows of the same pair, whichever names of its genes they use."""
    genes = {symbol: gene_of(symbol) for name in ("pert", "gene") for symbol in pairs[name].unique()}
    return pairs["cell_line"] + "|" + pairs["pert"].map(genes) + "|" + pairs["gene"].map(genes)


def _wrong_symbols(frame: pd.DataFrame, known: Collection[str]) -> Iterator[tuple[pd.Series, str, str]]:
    """Yield, for each text that is no gene symbol: the mask of its rows, what is wrong, and the remedy."""
    for name in ("pert", "gene"):
        for symbol in frame[name].unique():
            if symbol not in known and (wrong := wrong_symbol(symbol)) is not None:
                problem, _, remedy = wrong.partition("; ")
                yield frame[name] == symbol, f"is no pair of gene symbols: {symbol!r} {problem}", remedy


def check_verifiers(components: Sequence[Component]) -> None:
    """Refuse rewards that need a label for every prompt.

    Raises:
        InputError: the verifier of a built-in reward is `hard`.
    """
    for component in components:
        if isinstance(getattr(component.reward, "verifier", None), HardVerifier):
            raise InputError(
                f"rewards: {component.name} needs labels, which unlabelled pairs do not have; give it "
                "parameters: {verifier: {kind: mixed, table: neighbours}}"
            )
