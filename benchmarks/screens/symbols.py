"""Gene symbols: find the gene that a spelling or a former name means, and say why a text is no symbol."""

import csv
import re
from functools import cache
from pathlib import Path
from typing import Final

ALIASES: Final = Path(__file__).parent / "data" / "symbol_aliases.csv"
_PLAIN: Final = re.compile(r"[!-{}~]+")  # visible ASCII without `|`, which separates the names in an item id
# Letters and digits, with hyphens and points between them, as in PerturbQA's symbols.
_SYMBOL: Final = re.compile(r"[A-Za-z0-9]+(?:[-.]+[A-Za-z0-9]+)*")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?(?:E[+-]?\d+)?", re.IGNORECASE)
_ENSEMBL: Final = re.compile(r"ENS[A-Z]*[GTP]\d{11}(?:\.\d+)?", re.IGNORECASE)
_MONTH: Final = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?)"
)
# What spreadsheets turn MARCH5, SEPT2 or DEC1 into.
_DATE: Final = re.compile(
    rf"\d{{1,2}}-{_MONTH}(?:-\d{{2,4}})?|{_MONTH}-\d{{1,4}}|\d{{4}}[-/]\d{{1,2}}[-/]\d{{1,2}}.*|"
    r"\d{1,2}/\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}",
    re.IGNORECASE,
)


def gene_of(symbol: str) -> str:
    """Return a key that is equal for all names of one gene: PerturbQA's symbol of it, or the name given, in lower case.

    Former and present names are listed in `data/symbol_aliases.csv`. Letter case does not matter.
    """
    folded = symbol.casefold()
    return _aliases().get(folded, folded)


def wrong_symbol(symbol: str) -> str | None:
    """Return what is wrong with a text as a gene symbol, and the remedy; None where it could be a symbol.

    A symbol has no invisible characters, no letters of other alphabets that look like Latin ones, no white space, and
    no quotes or full stops around it. A number or an Ensembl id is refused; it is not translated to a symbol.
    """
    if _DATE.fullmatch(symbol):
        return "is a date that a spreadsheet made of a gene symbol; write the symbol again, as text"
    if _NUMBER.fullmatch(symbol):
        return "is a number, such as an Entrez id or a date from a spreadsheet; write the gene symbol, as text"
    if _ENSEMBL.fullmatch(symbol):
        return "is an Ensembl id; write the gene symbol"
    if (odd := next((character for character in symbol if not _PLAIN.fullmatch(character)), None)) is not None:
        return f"has the character U+{ord(odd):04X}, which no symbol has; write it in plain letters"
    if not _SYMBOL.fullmatch(symbol):
        return "has more than letters, digits, and hyphens and points between them; write the gene symbol alone"
    return None


def looks_like_date(symbol: str) -> bool:
    """Tell whether a symbol looks like a date, as spreadsheets make of symbols such as MARCH1 or SEPT2."""
    return _DATE.fullmatch(symbol) is not None


@cache
def _aliases() -> dict[str, str]:
    with ALIASES.open(encoding="utf-8", newline="") as file:
        return {row["alias"].casefold(): row["symbol"].casefold() for row in csv.DictReader(file)}
