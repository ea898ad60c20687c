"""A kind of evidence, as a configuration names it, and the rows that a kind quotes.

A configuration lists kinds as texts:

- `neighbours,k=5`: the k knockdowns most similar to the item's, and what they did to the gene.
- `contrast,k=3`: the k most similar knockdowns that changed the gene, beside the k most similar that did not.
- `other_lines`: the same knockdown and gene in other cell lines.
- `similar_genes,k=6`: the k training pairs most similar to the item's, each a knockdown that does alike and a gene that
  responds alike. The item's gene need not have a training row.
- `gene_sets,file=FILE,k=5`: the k smallest sets of a GMT file that hold both genes.
- `graph,file=FILE,k=5`: the edge between the two genes in an edge list, and the k strongest partners of both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rewards import InputError

# What a kind quotes of each item, one row a quotation: rank (from 1), what it names, a number (similarity, size or
# score) and a label, which is empty where the kind quotes none.
QUOTE_COLUMNS: Final = ["item_id", "rank", "name", "value", "label"]
_DEFAULT_K: Final = {
    "neighbours": 5,
    "contrast": 3,
    "other_lines": None,
    "similar_genes": 6,
    "gene_sets": 5,
    "graph": 5,
}
_WITH_FILE: Final = ("gene_sets", "graph")
NAMES: Final = tuple(_DEFAULT_K)


@dataclass(frozen=True)
class EvidenceKind:
    """A kind of evidence with its settings; made by `read_evidence`.

    Attributes:
        name: one of `NAMES`.
        k: quotations per item (of `contrast`: on each side), at least 1; 0 for a kind that quotes all there are.
        file: the file it quotes; None for a kind that quotes labels.
    """

    name: str
    k: int
    file: Path | None = None


def read_evidence(text: str) -> EvidenceKind:
    """Return the kind of evidence that a text describes.

    Args:
        text: as in this module's list. `k` may be left out.

    Raises:
        InputError: the kind is unknown, or an option is unknown, missing, given twice or out of range.
    """
    name, *options = (part.strip() for part in text.split(","))
    if name not in NAMES:
        hint = ""
        if "=" in name:  # [neighbours,k=5] is a list of two texts
            hint = "; in a list with brackets, put each kind in quotes"
        elif text.startswith("["):
            hint = "; on a command line, write the kinds one behind the other, without brackets"
        raise InputError(f"evidence: {text!r} is no kind; use {', '.join(NAMES)}{hint}")
    allowed = [*(["k"] if _DEFAULT_K[name] else []), *(["file"] if name in _WITH_FILE else [])]
    found: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in allowed or not (equals and value) or key in found:
            forms = {"k": "k=NUMBER", "file": "file=FILE"}
            takes = " and ".join(forms[one] for one in allowed) or "no options"
            raise InputError(f"evidence: {text!r}: {option!r} is no option; {name} takes {takes}, each once")
        found[key] = value
    if name in _WITH_FILE and "file" not in found:
        raise InputError(f"evidence: {text!r} names no file; write {name},file=FILE")
    k = found.get("k", str(_DEFAULT_K[name] or 0))
    if not k.isdecimal() or (allowed[:1] == ["k"] and int(k) < 1):
        raise InputError(f"evidence: {text!r}: k is {k!r}; write a whole number of at least 1")
    return EvidenceKind(name, int(k), Path(found["file"]).expanduser() if "file" in found else None)
