"""Gene symbols as what they name: two spellings or two names of one gene are the same, and what is none is told."""

import csv
import re
from functools import cache
from pathlib import Path
from typing import Final

ALIASES: Final = Path(__file__).parent / "data" / "symbol_aliases.csv"
_PLAIN: Final = re.compile(r"[!-{}~]+")  # visible ASCII but for `|`, which item ids have between names
# Letters and digits, with the hyphens and points within that PerturbQA's symbols have.
_SYMBOL: Final = re.compile(r"[A-Za-z0-9]+(?:[-.]+[A-Za-z0-9]+)*")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?(?:E[+-]?\d+)?", re.IGNORECASE)
_ENSEMBL: Final = re.compile(r"ENS[A-Z]*[GTP]\d{11}(?:\.\d+)?", re.IGNORECASE)
_MONTH: Final = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    "nov(?:ember)?|dec(?:ember)?)"
)
# What spreadsheets make of MARCH5, SEPT2 or DEC1.
_DATE: Final = re.compile(
    rf"\d{{1,2}}-{_MONTH}(?:-\d{{2,4}})?|{_MONTH}-\d{{1,4}}|\d{{4}}[-/]\d{{1,2}}[-/]\d{{1,2}}.*|"
    r"\d{1,2}/\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}",
    re.IGNORECASE,
)


def gene_of(symbol: str) -> str:
    """Return what stands for a gene under any of its names: PerturbQA's symbol of it, or the one given, in lower case.

    Former and present names are those in `data/symbol_aliases.csv`; letter case does not matter.
    """
    folded = symbol.casefold()
    return _aliases().get(folded, folded)


def wrong_symbol(symbol: str) -> str | None:
    """Return what is wrong with a text as a gene's symbol, and the remedy; None where it could be one.

    Invisible characters, letters of other alphabets that look like Latin ones, and white space are no part of a symbol,
    nor are quotes and full stops around it. Numbers and Ensembl's ids name genes otherwise; they are not looked up.
    """
    if _DATE.fullmatch(symbol):
        return "is a date, which a spreadsheet made of a gene's name; write the symbol again, as text"
    if _NUMBER.fullmatch(symbol):
        return (
            "is a number, such as an Entrez id or what a spreadsheet makes of a date; write the gene's symbol, as text"
        )
    if _ENSEMBL.fullmatch(symbol):
        return "is an id of Ensembl's; write the gene's symbol"
    if (odd := next((character for character in symbol if not _PLAIN.fullmatch(character)), None)) is not None:
        return f"has the character U+{ord(odd):04X}, which no symbol has; write it in plain letters"
    if not _SYMBOL.fullmatch(symbol):
        return "has more than letters, digits, and hyphens and points within; write the gene's symbol alone"
    return None


@cache
def _aliases() -> dict[str, str]:
    with ALIASES.open(encoding="utf-8", newline="") as file:
        return {row["alias"].casefold(): row["symbol"].casefold() for row in csv.DictReader(file)}
