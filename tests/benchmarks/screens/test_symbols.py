"""Gene symbols: names of one gene are one, and what is no symbol is told."""

import csv

import pandas as pd
import pytest

from benchmarks.screens.symbols import ALIASES, gene_of, wrong_symbol
from tools.make_aliases import ADDED, find_aliases


def rows() -> list[dict[str, str]]:
    with ALIASES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_alias_is_of_one_symbol_and_no_symbol_itself() -> None:
    aliases, symbols = [row["alias"] for row in rows()], {row["symbol"] for row in rows()}
    assert len(set(aliases)) == len(aliases) > 4000
    assert not set(aliases) & symbols
    assert [(row["symbol"], row["alias"]) for row in rows()] == sorted((row["symbol"], row["alias"]) for row in rows())


def test_aliases_are_of_perturbqa_s_symbols(full_frame: pd.DataFrame) -> None:
    there = {*full_frame["pert"].astype(str), *full_frame["gene"].astype(str)}
    assert {row["symbol"] for row in rows()} <= there
    assert not {row["alias"] for row in rows()} & there
    assert not [symbol for symbol in there if wrong_symbol(symbol) is not None]


def test_a_name_of_two_genes_or_that_is_a_symbol_itself_is_no_alias() -> None:
    genes = [
        ["NEW1", "OLD1", "SHARED"],
        ["NEW2", "SHARED"],
        ["NEW3", "OURS2"],
        ["OURS4", "ours2"],
        ["NEW5", "OLD5"],
        ["NEW6", "OLD6", "TWICE"],
        ["NEW7", "TWICE"],
    ]
    pairs = find_aliases(genes, {"OLD1", "OURS2", "OURS4", "OLD6", "TWICE"})
    assert set(pairs) - set(ADDED) == {("OLD1", "NEW1"), ("OURS2", "NEW3"), ("OLD6", "NEW6"), ("TWICE", "NEW7")}


@pytest.mark.parametrize(
    ("one", "other"),
    [("MARCH5", "MARCHF5"), ("SEPT2", "SEPTIN2"), ("H1-2", "HIST1H1C"), ("aars1", "AARS"), ("New1", "NEW1")],
)
def test_names_of_one_gene_are_one(one: str, other: str) -> None:
    assert gene_of(one) == gene_of(other)


@pytest.mark.parametrize("symbol", ["TP53", "MT-ND5", "AC118549.1", "HLA-DRB1", "C9orf72", "NA", "H3-7", "MARCH1"])
def test_symbols(symbol: str) -> None:
    assert wrong_symbol(symbol) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("'MT-ND5", "letters, digits"), ('"MT-ND5"', "letters, digits"), ("MT-ND5.", "letters, digits"),
        ("MT-ND5,", "letters, digits"), ("-1", "letters, digits"), ("ENSG00000198786", "Ensembl"),
        ("ENSG00000198786.2", "Ensembl"), ("100131801", "a number"), ("4540", "a number"), ("2.31E+13", "a number"),
        ("44625.0", "a number"), ("3/5", "a date"), ("2024/03/05", "a date"), ("5-March", "a date"),
        ("March-05", "a date"), ("1-Sept", "a date"),
    ],
)  # fmt: skip
def test_what_is_no_symbol_is_told(text: str, said: str) -> None:
    assert said in (wrong_symbol(text) or "")
