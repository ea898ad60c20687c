"""The evidence part of prompts: what each kind of evidence quotes of an item, within one budget for all kinds."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds import elsewhere, gene_sets, graph, knockdowns, similar_genes
from benchmarks.evidence.kinds.kind import EvidenceKind
from benchmarks.evidence.reference import Reference
from benchmarks.files import file_sha256
from rewards import InputError

# SmolLM2's tokenizer, which has a small vocabulary, made at most .47 tokens a character of 11,545 evidence parts on
# the sample's items (of five settings; mean .28 to .38).
TOKENS_PER_CHARACTER: Final = 0.6
_NONE: Final = "none known"


@dataclass(frozen=True)
class _Form:
    """How a kind of evidence is made: its heading, what it quotes, and how the rows of an item are written.

    Attributes:
        heading: first line, with `{pert}` and `{gene}`.
        quote: from corpus, items and kind to a frame of `QUOTE_COLUMNS`, in any order of items.
        write: from the rows of an item in order of rank, its perturbation and its gene to lines.
    """

    heading: str
    quote: Callable[[Corpus, pd.DataFrame, EvidenceKind], pd.DataFrame]
    write: Callable[[Sequence[Any], str, str], list[str]]


_FORMS: Final = {
    "neighbours": _Form(knockdowns.NEIGHBOURS, knockdowns.quote_neighbours, knockdowns.write_neighbours),
    "contrast": _Form(knockdowns.CONTRAST, knockdowns.quote_contrast, knockdowns.write_contrast),
    "other_lines": _Form(elsewhere.OTHER_LINES, elsewhere.quote_other_lines, elsewhere.write_other_lines),
    "similar_genes": _Form(
        similar_genes.SIMILAR_GENES, similar_genes.quote_similar_genes, similar_genes.write_similar_genes
    ),
    "gene_sets": _Form(gene_sets.GENE_SETS, gene_sets.quote_gene_sets, gene_sets.write_gene_sets),
    "graph": _Form(graph.GRAPH, graph.quote_graph, graph.write_graph),
}


@dataclass
class _Block:
    """What one kind quotes of one item: a heading, and lines from the most to the least important."""

    heading: str
    lines: list[str]


def quote_evidence(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> pd.DataFrame:
    """Return what a kind of evidence quotes.

    Args:
        corpus: the labels under a split. Labels are quoted from training rows only, and never the item's own.
        items: rows with `item_id`, `cell_line`, `pert`, `gene`. An item may recur.
        kind: the kind.

    Returns:
        `item_id, rank, name, value, label`; see `benchmarks.evidence.kinds.kind`. An item has no rows where nothing is
        known.

    Raises:
        InputError: a file of the kind cannot be read, or the sample does not carry what the kind quotes.
    """
    return _FORMS[kind.name].quote(corpus, items.drop_duplicates("item_id"), kind)


def evidence_parts(
    corpus: Corpus,
    items: pd.DataFrame,
    kinds: Sequence[EvidenceKind],
    openings: Mapping[str, str],
    max_tokens: int | None = None,
) -> dict[str, str]:
    """Write the evidence part of each item's prompt.

    Tokens are estimated from above as `TOKENS_PER_CHARACTER` for each character, so that teacher and student get the
    same text whatever their tokenizers. If all lines do not fit, the kinds take turns, each with its next line. A kind
    ends with its first line that does not fit. The part then says how many lines each kind has left out.

    Args:
        corpus: the labels under a split.
        items: rows with `item_id`, `cell_line`, `pert`, `gene`.
        kinds: at least one, in the order of the prompt.
        openings: the first sentence of each item's part, by item id.
        max_tokens: most tokens of a part; None for any number.

    Returns:
        The part of each item, by item id.

    Raises:
        InputError: see `quote_evidence`; or the budget does not hold the headings of an item.
    """
    found: list[dict[str, list[Any]]] = []
    for kind in kinds:
        quoted: dict[str, list[Any]] = {}
        for row in quote_evidence(corpus, items, kind).itertuples():
            quoted.setdefault(str(row.item_id), []).append(row)
        found.append(quoted)
    parts: dict[str, str] = {}
    for item_id, pert, gene in zip(*(items[name].astype(str) for name in ("item_id", "pert", "gene")), strict=True):
        blocks = []
        for kind, quoted in zip(kinds, found, strict=True):
            form = _FORMS[kind.name]
            lines = form.write(quoted[item_id], pert, gene) if item_id in quoted else []
            blocks.append(_Block(form.heading.format(pert=pert, gene=gene), lines))
        try:
            parts[item_id] = _write(openings[item_id], blocks, max_tokens)
        except InputError as error:
            raise InputError(f"{error} (item {item_id})") from None
    return parts


def evidence_inputs(kinds: Sequence[EvidenceKind]) -> dict[str, str]:
    """Return the digests of the files that kinds of evidence quote, for `open_run`.

    Raises:
        InputError: a file is missing.
    """
    files = [kind.file for kind in kinds if kind.file is not None]
    for file in files:
        if not file.is_file():
            raise InputError(f"evidence: {file}: no such file; correct the path")
    return {f"evidence: {file}": file_sha256(file) for file in files}


def evidence_digest(kinds: Sequence[EvidenceKind], reference: Reference | None = None) -> str:
    """Return a digest of what kinds of evidence quote besides the corpus's own labels; empty where there is nothing.

    Args:
        kinds: the kinds; their files count.
        reference: the corpus's reference; counts where there are kinds.
    """
    digests = list(evidence_inputs(kinds).values())
    if reference is not None and kinds:
        digests.append(reference.digest)
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest() if digests else ""


def _write(opening: str, blocks: Sequence[_Block], max_tokens: int | None) -> str:
    whole = _joined(opening, blocks, [len(block.lines) for block in blocks])
    if max_tokens is None or len(whole) * TOKENS_PER_CHARACTER <= max_tokens:
        return whole
    shown = [0] * len(blocks)
    least = len(_joined(opening, blocks, shown))
    if least * TOKENS_PER_CHARACTER > max_tokens:
        raise InputError(
            f"evidence_tokens: {max_tokens} tokens do not hold the headings of the evidence, which need about "
            f"{least * TOKENS_PER_CHARACTER:.0f}; raise it, or quote fewer kinds"
        )
    going = {at for at, block in enumerate(blocks) if block.lines}
    while going:
        for at in sorted(going):
            shown[at] += 1
            fits = len(_joined(opening, blocks, shown)) * TOKENS_PER_CHARACTER <= max_tokens
            if not fits:
                shown[at] -= 1
            if not fits or shown[at] == len(blocks[at].lines):
                going.remove(at)
    return _joined(opening, blocks, shown)


def _joined(opening: str, blocks: Sequence[_Block], shown: Sequence[int]) -> str:
    """Write the first lines of each block, and how many are left out."""
    texts = []
    for block, n in zip(blocks, shown, strict=True):
        left = len(block.lines) - n
        cut = [f"({left} more left out)" if n else f"({left} left out)"] if left else []
        texts.append("\n".join([block.heading, *(block.lines[:n] or ([] if cut else [_NONE])), *cut]))
    return f"{opening} " + "\n".join(texts)
