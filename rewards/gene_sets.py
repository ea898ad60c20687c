"""Gene sets from a GMT file, by the words of their names: pathways of MSigDB, Enrichr and the like."""

import re
from pathlib import Path
from typing import Final

from rewards.errors import InputError

# An accession at the end of a set's name: (GO:0006915), WP534, R-HSA-70171, hsa04210; Enrichr adds the species.
_ACCESSION: Final = re.compile(
    r"(?:\s+(?:homo sapiens|mus musculus|human|mouse))?\s+\(?(?:go:\d+|wp\d+|r-[a-z]{3}-\d+|(?:hsa|mmu)\d+)\)?$"
)
_COLLECTION: Final = re.compile(r"^(?:HALLMARK|KEGG_MEDICUS|KEGG|REACTOME|WP|BIOCARTA|PID|GOBP|GOCC|GOMF|HP)_")


def read_gene_sets(path: Path) -> dict[str, frozenset[str]]:
    """Read a GMT file: each line has a set's name, a description and gene symbols, with tabs between.

    Both `HALLMARK_OXIDATIVE_PHOSPHORYLATION` and `oxidative phosphorylation (GO:0006119)` get the name `oxidative
    phosphorylation`. Sets that get the same name, such as `KEGG_APOPTOSIS` and `HALLMARK_APOPTOSIS`, are merged.

    Args:
        path: the GMT file, UTF-8.

    Returns:
        The symbols of each set, by the set's name in lower case, without the collection and accession.

    Raises:
        InputError: the file is missing or empty, a line has fewer than three fields, or a symbol has white space or a
            comma in it. The message names file and line.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a GMT file of gene sets")
    sets: dict[str, frozenset[str]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; give a GMT file of gene sets, not compressed") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = [part.strip() for part in line.split("\t")]
        genes = frozenset(part for part in fields[2:] if part)
        if not fields[0] or not genes:
            raise InputError(
                f"{path}, line {number}: needs a name, a description and genes with tabs between; correct the line"
            )
        odd = next((part for part in fields[2:] if re.search(r"[\s,]", part)), None)
        if odd is not None:
            remedy = "drop Enrichr's weights, as in PGK1,1.0" if "," in odd else "put a tab between symbols"
            raise InputError(f"{path}, line {number}: {odd[:60]!r} is no gene symbol; {remedy}")
        name = set_name(fields[0])
        sets[name] = sets.get(name, frozenset()) | genes
    if not sets:
        raise InputError(f"{path}: no gene set in it; give a GMT file of gene sets")
    return sets


def set_name(name: str) -> str:
    """Return a set's name in lower-case words, without the collection before it and the accession after it."""
    words = " ".join(_COLLECTION.sub("", name).replace("_", " ").lower().split())
    return _ACCESSION.sub("", words)
