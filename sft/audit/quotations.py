"""Where a text states the label of an item that it names: one plain rule, for prompts of others and for completions.

A text is cut at line ends and behind full stops. A piece of it states the label of an item if all of this holds:

- the piece holds that label, neither of the other two, and no question mark;
- it holds the symbols of the item's perturbation and gene;
- the item's cell line is one that the piece names or, where it names none, the trace's;
- no other piece states another label of the item: these would be answers to choose from.

The rule finds accidents. It does not see synonyms ("up", "rises"), tables, symbols in other letter case, or a label on
the line below its symbols. Prompts of our template are built again instead; see `sft.audit.audit`.
"""

import re
from collections.abc import Iterator
from typing import Final

from benchmarks.evidence.corpus import Corpus
from rewards import LABELS
from sft.filters.visible import visible
from sft.traces import Trace

_LABEL: Final = re.compile(r"\b(?:(up-?regulat)|(down-?regulat)|(not differentially expressed\b))", re.IGNORECASE)
_END: Final = re.compile(r"[\r\n]+|(?<=[.!?]) ")
_WORD: Final = re.compile(r"[A-Za-z0-9]+(?:[-.@][A-Za-z0-9]+)*")
_PART: Final = re.compile(r"[A-Za-z0-9]+")


class QuotationFinder:
    """Finds the test items whose labels a text states.

    Args:
        corpus: the labels under a split.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._known = {*corpus.labels["pert"].unique(), *corpus.labels["gene"].unique()}
        self._of_words = [name for name in self._known if " " in name]  # sets of genes have such names
        self._tests: dict[str, dict[str, dict[str, str]]] = {line: {} for line in corpus.labels["cell_line"].unique()}
        columns = (corpus.test[name].astype("str") for name in ("cell_line", "pert", "gene", "label"))
        for line, pert, gene, label in zip(*columns, strict=True):
            self._tests[line].setdefault(pert, {})[gene] = label

    def in_prompt(self, trace: Trace) -> set[str]:
        """Return the ids of items, test items and the trace's own, whose labels its prompt states.

        A prompt is about the trace's gene, so a line need not name that gene.
        """
        text = "\n".join(message["content"] for message in trace.prompt)
        return self._quoted(text, trace, {trace.gene}, own=True)

    def in_reasoning(self, trace: Trace, reasoning: str) -> set[str]:
        """Return the ids of test items whose labels the reasoning of a trace states."""
        return self._quoted(reasoning, trace, set(), own=False)

    def _quoted(self, text: str, trace: Trace, about: set[str], *, own: bool) -> set[str]:
        told: dict[str, set[str]] = {}
        true: dict[str, str] = {}
        for label, piece in _statements(text):
            symbols = self._symbols(piece)
            lines = [line for line in self._tests if line.casefold() in piece.casefold()] or [trace.cell_line]
            for line in lines:
                here = line == trace.cell_line
                items = {pert: self._tests[line][pert] for pert in symbols & self._tests[line].keys()}
                if own and here and trace.pert in symbols:
                    items[trace.pert] = {trace.gene: trace.label}
                for pert, genes in items.items():
                    if pert != trace.gene:  # named as the readout
                        for gene in (symbols | about) & genes.keys():
                            item_id = f"{line}|{pert}|{gene}"
                            told.setdefault(item_id, set()).add(label)
                            true[item_id] = genes[gene]
        return {item_id for item_id, labels in told.items() if labels == {true[item_id]}}

    def _symbols(self, piece: str) -> set[str]:
        """Return the words of a piece. NEDD8-MDP1, a symbol, is one word; AARS-KD, which is none, is two."""
        words = {*_WORD.findall(piece), *(name for name in self._of_words if name in piece)}
        return words.union(*(_PART.findall(word) for word in words if not (word.isalnum() or word in self._known)))


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a text that state a label, with that label."""
    if _LABEL.search(text := visible(text)) is None:
        return
    for piece in _END.split(text):
        labels = {str(LABELS[(match.lastindex or 1) - 1]) for match in _LABEL.finditer(piece)}
        if len(labels) == 1 and "?" not in piece:
            yield labels.pop(), piece
