"""Pairs without a label as prompts: what soft and mixed verifiers let GRPO train on beyond the labelled ones."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.screens.schema import CELL_LINES
from benchmarks.screens.symbols import gene_of, wrong_symbol
from benchmarks.tables import Table, read_table
from rewards import InputError
from rewards.composition import Component
from rewards.verifiers import HardVerifier

COLUMNS: Final = ("cell_line", "pert", "gene")


def read_unlabelled(path: Path, corpus: Corpus) -> pd.DataFrame:
    """Read pairs to prompt with.

    Args:
        path: a table (`benchmarks.tables`) with `cell_line`, `pert`, `gene`, white space around which is dropped; other
            columns are left.
        corpus: none of whose items may be among them, under any of its genes' names: a labelled pair has its label, and
            a test pair is no prompt.

    Returns:
        `item_id, cell_line, pert, gene, label`, the label empty.

    Raises:
        InputError: the file or a column is missing, a value is empty, has a `|` in it or is no symbol of a gene, a line
            is unknown, or a pair is there twice or among PerturbQA's items; names file and row.
    """
    table = read_table(path, COLUMNS)
    frame = _pairs_of(table)
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    _check_pairs(table, frame, corpus)
    return frame.assign(label="")


def _pairs_of(table: Table) -> pd.DataFrame:
    """The three columns of a file as text, without white space around it."""
    frame, path = table.frame, table.path
    for name in COLUMNS:
        if name not in frame:
            raise InputError(f"{path}: no column {name!r}; unlabelled pairs have {', '.join(COLUMNS)}")
    if frame.empty:
        raise InputError(f"{path}: no pairs in it; leave unlabelled out instead")
    frame = frame[list(COLUMNS)].fillna("").astype(str).reset_index(drop=True)
    for name in COLUMNS:
        frame[name] = frame[name].str.strip()
    return frame


def _check_pairs(table: Table, frame: pd.DataFrame, corpus: Corpus) -> None:
    """Refuse the first pair that cannot be a prompt.

    Args:
        table: the file.
        frame: `item_id` and the three columns.
        corpus: see `read_unlabelled`.
    """
    same = _identity(frame)
    known = set(_identity(corpus.labels[list(COLUMNS)].astype(str)))
    symbols = {*corpus.labels["pert"], *corpus.labels["gene"]}
    parts = frame[list(COLUMNS)]
    barred = parts.apply(lambda values: values.str.contains("|", regex=False)).any(axis=1)
    for wrong, problem, remedy in (
        ((parts == "").any(axis=1), "has an empty value", "fill it in"),
        (barred, "has a | in a name", "take it out"),
        (~frame["cell_line"].isin(CELL_LINES), "has an unknown cell line", f"use {', '.join(CELL_LINES)}"),
        *_wrong_symbols(frame, symbols),
        (same.duplicated(), "is there twice", "give each pair once"),
        (same.isin(known), "is an item of PerturbQA", "leave labelled pairs out, test pairs above all"),
    ):
        if wrong.any():
            table.refuse(wrong, f"{frame['item_id'][wrong].iloc[0]} {problem}; {remedy}")


def _identity(pairs: pd.DataFrame) -> pd.Series:
    """(N,) what a pair is, whatever its genes are called."""
    genes = {symbol: gene_of(symbol) for name in ("pert", "gene") for symbol in pairs[name].unique()}
    return pairs["cell_line"] + "|" + pairs["pert"].map(genes) + "|" + pairs["gene"].map(genes)


def _wrong_symbols(frame: pd.DataFrame, known: Collection[str]) -> Iterator[tuple[pd.Series, str, str]]:
    """Yield which rows have a text that is no symbol, what is wrong with it, and the remedy."""
    for name in ("pert", "gene"):
        for symbol in frame[name].unique():
            if symbol not in known and (wrong := wrong_symbol(symbol)) is not None:
                problem, _, remedy = wrong.partition("; ")
                yield frame[name] == symbol, f"is no pair of genes: {symbol!r} {problem}", remedy


def check_verifiers(components: Sequence[Component]) -> None:
    """Refuse rewards that need a label for every prompt.

    Raises:
        InputError: a built-in reward checks answers against labels alone.
    """
    for component in components:
        if isinstance(getattr(component.reward, "verifier", None), HardVerifier):
            raise InputError(
                f"rewards: {component.name} checks answers against labels, which unlabelled pairs do not have; give it "
                "parameters: {verifier: {kind: mixed, table: neighbours}}"
            )
