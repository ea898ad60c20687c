"""Gene symbols as what they name: two spellings or two names of one gene are the same, and what is none is told."""

import csv
import re
from functools import cache
from pathlib import Path
from typing import Final

ALIASES: Final = Path(__file__).parent / "data" / "symbol_aliases.csv"
_PLAIN: Final = re.compile(r"[!-{}~]+")  # visible ASCII but for `|`, which item ids have between names
_MONTH: Final = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)"
# What spreadsheets make of MARCH5, SEPT2 or DEC1: dates, and their serial numbers.
_DATE: Final = re.compile(
    rf"\d{{1,2}}-{_MONTH}(?:-\d{{2,4}})?|{_MONTH}-\d{{1,4}}|\d{{4}}-\d{{1,2}}-\d{{1,2}}.*|\d{{1,2}}[/.]\d{{1,2}}[/.]\d{{2,4}}|"
    r"\d{4,5}(?:\.0)?",
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

    Invisible characters, letters of other alphabets that look like Latin ones, and white space are no part of a symbol.
    """
    if _DATE.fullmatch(symbol):
        return "is a date, which a spreadsheet made of a gene's name; write the symbol again, as text"
    if (odd := next((character for character in symbol if not _PLAIN.fullmatch(character)), None)) is not None:
        return f"has the character U+{ord(odd):04X}, which no symbol has; write it in plain letters"
    return None


@cache
def _aliases() -> dict[str, str]:
    with ALIASES.open(encoding="utf-8", newline="") as file:
        return {row["alias"].casefold(): row["symbol"].casefold() for row in csv.DictReader(file)}
